"""Pictures -> descriptions, by a chat server.

`lensemble.stages.describe` does the work.
"""

from typing import Any

from lensemble.stages.describe import DescribeStage
from lensemble.stages.python_backend import load_model


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        self.model = load_model(DescribeStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.model.execute(requests)

    def finalize(self) -> None:
        self.model.close()
