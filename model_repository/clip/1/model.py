"""CLIP's token ids and pixels -> unit vectors.

`lensemble.stages.clip` does the work.
"""

from typing import Any

from lensemble.stages.clip import ClipStage
from lensemble.stages.python_backend import load_model


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        self.model = load_model(ClipStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.model.execute(requests)

    def finalize(self) -> None:
        self.model.close()
