"""`clip_preprocess`: items -> CLIP's token ids and pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lensemble.embedders.clip_preprocessor import CLIP_VARIABLE, ClipFeatures, ClipPreprocessor
from lensemble.embedders.model_files import find_model
from lensemble.scheduling.slots import Slots
from lensemble.settings import Settings
from lensemble.stages.stage import Stage, run_each
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item, Rows, from_rows
from lensemble_contract.parameters import Parameters


class ClipPreprocessStage(Stage[Item, ClipFeatures]):
    """Items -> CLIP's token ids and pixels."""

    model = contract.CLIP_PREPROCESS

    def __init__(self, settings: Settings, device: str) -> None:
        import torch

        torch.set_num_threads(1)  # each instance uses one core
        self._preprocess = ClipPreprocessor(
            find_model(settings.clip or "", CLIP_VARIABLE),
            Slots(settings.heartbeats, self.model.name),
        )

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Item | LensembleError]:
        """See `Stage.read`."""
        return from_rows(rows)

    def run(self, rows: Sequence[Item]) -> Sequence[ClipFeatures | LensembleError]:
        """See `Stage.run`."""
        return run_each(self._preprocess, rows)

    def write(self, results: Sequence[ClipFeatures]) -> Rows:
        """See `Stage.write`. Shorter rows are padded; `pictures` is the real number of pictures."""
        tokens = max(len(features.input_ids) for features in results)
        pictures = max(len(features.pixels) for features in results)
        ids = np.full((len(results), tokens), contract.PAD_ID, np.int32)
        pixels = np.zeros((len(results), pictures, *results[0].pixels.shape[1:]), np.uint8)
        for row, features in enumerate(results):
            ids[row, : len(features.input_ids)] = features.input_ids
            pixels[row, : len(features.pixels)] = features.pixels
        counts = [[len(features.pixels)] for features in results]
        return {
            contract.INPUT_IDS.name: ids,
            contract.PIXELS.name: pixels,
            contract.PICTURE_COUNT.name: np.array(counts, np.int32),
            contract.TOKENS.name: np.array([[features.tokens] for features in results], np.int32),
        }
