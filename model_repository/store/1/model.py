"""Writes and reads of the index. The work is in `lensemble.stages.store`."""

import os
from typing import Any

from lensemble.stages import python_backend
from lensemble.stages.store import StoreStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        os.nice(5)  # a full core of writes must not keep searches waiting
        self.stage = python_backend.load(StoreStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return python_backend.respond(self.stage, requests)

    def finalize(self) -> None:
        self.stage.close()
