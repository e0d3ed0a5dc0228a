"""Encoded pictures and text -> token ids and patches.

`lensemble.stages.preprocess` does the work.
"""

from typing import Any

from lensemble.stages.preprocess import PreprocessStage
from lensemble.stages.python_backend import load_model


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        self.model = load_model(PreprocessStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.model.execute(requests)

    def finalize(self) -> None:
        self.model.close()
