"""Encoded pictures and text -> token ids and patch rows.

The work is in `lensemble.stages.preprocess`.
"""

from typing import Any

from lensemble import triton
from lensemble.stages.preprocess import PreprocessStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        self.stage = triton.load(PreprocessStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return triton.respond(self.stage, requests)
