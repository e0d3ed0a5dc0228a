"""Encoded pictures and text -> token ids and patch rows.

The work is in `lensemble.stages.preprocess`.
"""

from typing import Any

from lensemble.stages import python_backend
from lensemble.stages.preprocess import PreprocessStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        self.stage = python_backend.load(PreprocessStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return python_backend.respond(self.stage, requests)
