"""Encoded pictures and text -> the text, and the pictures as JPEG files for the chat server.

`lensemble.stages.hybrid_preprocess` does the work.
"""

from typing import Any

from lensemble.stages.hybrid_preprocess import HybridPreprocessStage
from lensemble.stages.python_backend import load_model


class TritonPythonModel:
    """The class that Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        self.model = load_model(HybridPreprocessStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return self.model.execute(requests)

    def finalize(self) -> None:
        self.model.close()
