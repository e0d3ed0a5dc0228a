"""`clip_preprocess`: items -> what CLIP reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lensemble.embedders import model_files
from lensemble.embedders.clip_preprocess import FIELD, ClipFeatures, ClipPreprocessor
from lensemble.settings import Settings
from lensemble.stages.stage import Parameters, Stage
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item, Rows, from_rows


class ClipPreprocessStage(Stage[Item, ClipFeatures]):
    """Items -> what CLIP reads."""

    model = contract.CLIP_PREPROCESS

    def __init__(self, settings: Settings, device: str) -> None:
        import torch

        torch.set_num_threads(1)  # instances run side by side, one core each
        self._preprocess = ClipPreprocessor(model_files.find(settings.clip or "", FIELD))

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Item | LensembleError]:
        """See `Stage.read`."""
        return from_rows(rows)

    def run(self, rows: Sequence[Item]) -> Sequence[ClipFeatures | LensembleError]:
        """See `Stage.run`."""
        return [self._one(item) for item in rows]

    def _one(self, item: Item) -> ClipFeatures | LensembleError:
        try:
            return self._preprocess(item)
        except LensembleError as error:
            return error

    def write(self, results: Sequence[ClipFeatures]) -> Rows:
        """See `Stage.write`; shorter rows are filled up, `pictures` says what is real."""
        longest = max(len(one.input_ids) for one in results)
        most = max(len(one.pixels) for one in results)
        ids = np.full((len(results), longest), contract.PAD_ID, np.int32)
        pixels = np.zeros((len(results), most, *results[0].pixels.shape[1:]), np.uint8)
        for row, one in enumerate(results):
            ids[row, : len(one.input_ids)] = one.input_ids
            pixels[row, : len(one.pixels)] = one.pixels
        return {
            contract.INPUT_IDS.name: ids,
            contract.PIXELS.name: pixels,
            contract.PICTURE_COUNT.name: np.array([[len(one.pixels)] for one in results], np.int32),
            contract.TOKENS.name: np.array([[one.tokens] for one in results], np.int32),
        }
