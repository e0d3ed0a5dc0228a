"""Unit vectors -> nearest items. The work is in `lensemble.stages.search`."""

from typing import Any

from lensemble import triton
from lensemble.stages.search import SearchStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        self.stage = triton.load(SearchStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return triton.respond(self.stage, requests)

    def finalize(self) -> None:
        self.stage.close()
