"""Token ids and patch rows -> unit vectors. The work is in `lensemble.stages.encode`."""

from typing import Any

from lensemble.stages import python_backend
from lensemble.stages.encode import EncodeStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        self.stage = python_backend.load(EncodeStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return python_backend.take(self.stage, requests)

    def finalize(self) -> None:
        python_backend.close(self.stage)
