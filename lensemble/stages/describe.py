"""`describe`: pictures -> descriptions, by a chat model on another server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lensemble.embedders.chat_client import Description
from lensemble.embedders.chat_input import ChatInput
from lensemble.embedders.describer import Describer
from lensemble.settings import Settings
from lensemble.stages.stage import Stage
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Rows
from lensemble_contract.parameters import Parameters


class DescribeStage(Stage[ChatInput, Description]):
    """Pictures -> descriptions."""

    model = contract.DESCRIBE

    def __init__(self, settings: Settings, device: str) -> None:
        self._describe = Describer(settings)
        # A full batch is described in several rounds, each of which may take the whole time.
        rounds = -(-contract.MAX_BATCH_SIZE // settings.chat_concurrency)
        self.patience_s = rounds * settings.chat_timeout_s + Stage.patience_s

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[ChatInput | LensembleError]:
        """See `Stage.read`."""
        texts, jpegs = rows[contract.OWN_TEXT.name], rows[contract.JPEGS.name]
        return [
            ChatInput(
                bytes(text[0]).decode("utf-8", "replace"),
                tuple(bytes(jpeg) for jpeg in row if jpeg),  # padding is empty
            )
            for text, row in zip(texts, jpegs, strict=True)
        ]

    def run(self, rows: Sequence[ChatInput]) -> Sequence[Description | LensembleError]:
        """See `Stage.run`."""
        return self._describe(rows)

    def write(self, results: Sequence[Description]) -> Rows:
        """See `Stage.write`."""
        texts = np.array([[result.text.encode()] for result in results], np.object_)
        tokens = np.array([[result.tokens] for result in results], np.int32)
        return {contract.DESCRIPTION.name: texts, contract.CHAT_TOKENS.name: tokens}

    def close(self) -> None:
        """See `Stage.close`."""
        self._describe.close()
