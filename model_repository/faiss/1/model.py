"""Unit vectors -> nearest items.

`lensemble.stages.search` does the work.
"""

from typing import Any

from lensemble.stages.python_backend import load_model
from lensemble.stages.search import SearchStage


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        self.model = load_model(SearchStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.model.execute(requests)

    def finalize(self) -> None:
        self.model.close()
