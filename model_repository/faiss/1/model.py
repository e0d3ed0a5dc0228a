"""Unit vectors -> nearest items. The work is in `lensemble.stages.search`."""

from typing import Any

from lensemble.stages import python_backend
from lensemble.stages.search import SearchStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        self.stage = python_backend.load(SearchStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return python_backend.respond(self.stage, requests)

    def finalize(self) -> None:
        self.stage.close()
