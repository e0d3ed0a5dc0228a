"""`hybrid_preprocess`: items -> their text, and their pictures as JPEG files for a chat model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from lensemble.embedders.chat_input import ChatInput, to_chat_input
from lensemble.scheduling.slots import Slots
from lensemble.settings import Settings
from lensemble.stages.stage import Stage, run_each
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item, Rows, from_rows
from lensemble_contract.parameters import Parameters


class HybridPreprocessStage(Stage[Item, ChatInput]):
    """Items -> their text, and their pictures as JPEG files for a chat model."""

    model = contract.HYBRID_PREPROCESS

    def __init__(self, settings: Settings, device: str) -> None:
        self._slots = Slots(settings.heartbeats, self.model.name)

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Item | LensembleError]:
        """See `Stage.read`."""
        return from_rows(rows)

    def run(self, rows: Sequence[Item]) -> Sequence[ChatInput | LensembleError]:
        """See `Stage.run`."""
        return run_each(partial(to_chat_input, slots=self._slots), rows)

    def write(self, results: Sequence[ChatInput]) -> Rows:
        """See `Stage.write`. Rows with fewer pictures are padded with empty bytes."""
        pictures = max(len(jpegs) for _, jpegs in results)
        padded = np.full((len(results), pictures), b"", np.object_)
        for row, (_, jpegs) in enumerate(results):
            padded[row, : len(jpegs)] = jpegs
        texts = np.array([[text.encode()] for text, _ in results], np.object_)
        return {contract.OWN_TEXT.name: texts, contract.JPEGS.name: padded}
