"""Encoded pictures and text -> the text, and JPEG files that a chat model may see.

The work is in `lensemble.stages.hybrid_preprocess`.
"""

from typing import Any

from lensemble.stages import python_backend
from lensemble.stages.hybrid_preprocess import HybridPreprocessStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what the stage needs."""
        self.stage = python_backend.load(HybridPreprocessStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one call."""
        return python_backend.respond(self.stage, requests)
