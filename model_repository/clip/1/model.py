"""CLIP's token ids and pixels -> unit vectors.

The work is in `lensemble.stages.clip`.
"""

from typing import Any

from lensemble.stages import python_backend
from lensemble.stages.clip import ClipStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what the stage needs."""
        self.stage = python_backend.load(ClipStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one call."""
        return python_backend.respond(self.stage, requests)
