"""Token ids and patches -> unit vectors.

`lensemble.stages.encode` does the work.
"""

from typing import Any

from lensemble.stages.encode import EncodeStage
from lensemble.stages.python_backend import load_model


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        self.model = load_model(EncodeStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.model.execute(requests)

    def finalize(self) -> None:
        self.model.close()
