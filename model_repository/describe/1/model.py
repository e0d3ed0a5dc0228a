"""Pictures -> descriptions, by a chat server elsewhere.

The work is in `lensemble.stages.describe`.
"""

from typing import Any

from lensemble.stages import python_backend
from lensemble.stages.describe import DescribeStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what the stage needs."""
        self.stage = python_backend.load(DescribeStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one call."""
        return python_backend.respond(self.stage, requests)

    def finalize(self) -> None:
        """Lets go of connections."""
        self.stage.close()
