"""Texts and descriptions -> unit vectors.

The work is in `lensemble.stages.sentence`.
"""

from typing import Any

from lensemble.stages import python_backend
from lensemble.stages.sentence import SentenceStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what the stage needs."""
        self.stage = python_backend.load(SentenceStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one call."""
        return python_backend.respond(self.stage, requests)
