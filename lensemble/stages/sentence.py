"""`sentence`: texts and descriptions -> unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.embedders.model_files import check_dimensions
from lensemble.embedders.sentence_encoder import SentenceEncoder, SentenceInput, SentenceResult
from lensemble.settings import Settings
from lensemble.stages.stage import Stage
from lensemble.stages.vector_stage import embedder_info, prepare_process, vector_rows
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Rows, decoded_text
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
        return [_row(*row) for row in zip(*columns, strict=True)]

    def run(self, rows: Sequence[SentenceInput]) -> Sequence[SentenceResult | LensembleError]:
        """See `Stage.run`."""
        return self._encoder.encode(rows)

    def write(self, results: Sequence[SentenceResult]) -> Rows:
        """See `Stage.write`."""
        return {
            **vector_rows([result.vector for result in results], self._encoder.profile),
            contract.TOKENS.name: np.array([[result.tokens] for result in results], np.int32),
        }


def _row(
    text: NDArray[Any], description: NDArray[Any], tokens: NDArray[Any]
) -> SentenceInput | LensembleError:
    """What is encoded of a row; an error if the earlier steps cannot have made it."""
    try:
        chat_tokens = int(tokens[0])
        if chat_tokens < 0:
            raise InvalidInputError(
                f"{chat_tokens}; expected 0 or more", field=contract.CHAT_TOKENS.name
            )
        return SentenceInput(
            decoded_text(text[0], contract.OWN_TEXT.name),
            decoded_text(description[0], contract.DESCRIPTION.name),
            chat_tokens,
        )
    except InvalidInputError as error:
        return error
