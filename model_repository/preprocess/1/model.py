"""Encoded pictures and text -> token ids and patch rows. The work is in `lensemble.stages`."""

from typing import Any

from lensemble import triton
from lensemble.stages import PreprocessStage


class TritonPythonModel:
    """Triton's Python backend looks for this name."""

    def initialize(self, args: dict[str, str]) -> None:
        self.stage = triton.load(PreprocessStage, args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return triton.respond(self.stage, requests)
