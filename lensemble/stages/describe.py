"""`describe`: pictures -> descriptions, by a chat model on another server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lensemble.embedders.chat_client import Description
from lensemble.embedders.chat_input import ChatInput
from lensemble.embedders.describer import Describer
from lensemble.settings import Settings
from lensemble.stages.stage import Stage
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Rows, decoded_text
from lensemble_contract.parameters import Parameters

_JPEG_START = b"\xff\xd8\xff"


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
        return [_row(text[0], row) for text, row in zip(texts, jpegs, strict=True)]

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


def _row(text: bytes, jpegs: Iterable[bytes]) -> ChatInput | LensembleError:
    """What the chat model gets of a row; an error if `hybrid_preprocess` cannot have made it."""
    pictures = [jpeg for jpeg in jpegs if jpeg]  # padding is empty
    try:
        if len(pictures) > contract.MAX_IMAGES_PER_ITEM:
            raise InvalidInputError(
                f"{len(pictures)} pictures in one item; at most {contract.MAX_IMAGES_PER_ITEM}",
                field=contract.JPEGS.name,
            )
        for n, picture in enumerate(pictures):
            _check_jpeg(picture, f"{contract.JPEGS.name}[{n}]")
        own_text = decoded_text(text, contract.OWN_TEXT.name)
    except InvalidInputError as error:
        return error
    return ChatInput(own_text, tuple(bytes(picture) for picture in pictures))


def _check_jpeg(picture: bytes, field: str) -> None:
    if len(picture) > contract.MAX_IMAGE_BYTES:
        raise InvalidInputError(
            f"{len(picture)} bytes; at most {contract.MAX_IMAGE_BYTES}", field=field
        )
    if bytes(picture[: len(_JPEG_START)]) != _JPEG_START:
        raise InvalidInputError("expected a JPEG file, as `hybrid_preprocess` makes", field=field)
