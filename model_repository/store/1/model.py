"""Writes and reads items of the index.

`lensemble.stages.store` does the work.
"""

import os
from typing import Any

from lensemble.stages.python_backend import load_model
from lensemble.stages.store import StoreStage


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        os.nice(5)  # writes that use a whole core must not slow searches down
        self.model = load_model(StoreStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.model.execute(requests)

    def finalize(self) -> None:
        self.model.close()
