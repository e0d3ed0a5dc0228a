"""`sentence`: texts and descriptions -> unit vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lensemble.embedders.model_files import check_dimensions
from lensemble.embedders.sentence_encoder import SentenceEncoder, SentenceInput, SentenceResult
from lensemble.settings import Settings
from lensemble.stages.stage import Stage
from lensemble.stages.vector_stage import embedder_info, prepare_process, vector_rows
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Rows
from lensemble_contract.parameters import Parameters, whole_number


class SentenceStage(Stage[SentenceInput, SentenceResult]):
    """Texts and descriptions -> unit vectors."""

    model = contract.SENTENCE

    def __init__(self, settings: Settings, device: str) -> None:
        prepare_process(settings)
        self._encoder = SentenceEncoder(settings, device)
        self.info = embedder_info(contract.HYBRID, settings.sentence or "", self._encoder)

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[SentenceInput | LensembleError]:
        """See `Stage.read`."""
        dimensions = whole_number(parameters, contract.DIMENSIONS)
        check_dimensions(dimensions, self._encoder.dimension, contract.HYBRID)
        columns = [rows[tensor.name] for tensor in self.model.inputs]
        return [
            SentenceInput(_text(text[0]), _text(description[0]), int(tokens[0]))
            for text, description, tokens in zip(*columns, strict=True)
        ]

    def run(self, rows: Sequence[SentenceInput]) -> Sequence[SentenceResult | LensembleError]:
        """See `Stage.run`."""
        return self._encoder.encode(rows)

    def write(self, results: Sequence[SentenceResult]) -> Rows:
        """See `Stage.write`."""
        return {
            **vector_rows([result.vector for result in results], self._encoder.profile),
            contract.TOKENS.name: np.array([[result.tokens] for result in results], np.int32),
        }


def _text(value: bytes) -> str:
    return bytes(value).decode("utf-8", "replace")
