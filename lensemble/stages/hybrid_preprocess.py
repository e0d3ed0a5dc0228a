"""`hybrid_preprocess`: items -> their text, and their pictures as a chat model is shown them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lensemble.embedders.chat import Shown
from lensemble.embedders.jpegs import show
from lensemble.settings import Settings
from lensemble.stages.stage import Parameters, Stage
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item, Rows, from_rows


class HybridPreprocessStage(Stage[Item, Shown]):
    """Items -> their text, and their pictures as a chat model is shown them."""

    model = contract.HYBRID_PREPROCESS

    def __init__(self, settings: Settings, device: str) -> None:
        pass

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Item | LensembleError]:
        """See `Stage.read`."""
        return from_rows(rows)

    def run(self, rows: Sequence[Item]) -> Sequence[Shown | LensembleError]:
        """See `Stage.run`."""
        return [self._one(item) for item in rows]

    def _one(self, item: Item) -> Shown | LensembleError:
        try:
            return show(item)
        except LensembleError as error:
            return error

    def write(self, results: Sequence[Shown]) -> Rows:
        """See `Stage.write`; shorter rows are filled up with empty bytes."""
        most = max(len(jpegs) for _, jpegs in results)
        filled = np.full((len(results), most), b"", np.object_)
        for row, (_, jpegs) in enumerate(results):
            filled[row, : len(jpegs)] = jpegs
        texts = np.array([[text.encode()] for text, _ in results], np.object_)
        return {contract.OWN_TEXT.name: texts, contract.JPEGS.name: filled}
