"""CLIP's token ids and pixels -> unit vectors.

The work is in `lensemble.stages.clip`.
"""

from typing import Any

from lensemble import triton
from lensemble.stages.clip import ClipStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what the stage needs."""
        self.stage = triton.load(ClipStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one call."""
        return triton.respond(self.stage, requests)
