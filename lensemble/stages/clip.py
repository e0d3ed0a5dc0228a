"""`clip`: CLIP's token ids and pixels -> unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.embedders.clip_preprocessor import ClipFeatures
from lensemble.embedders.model_files import check_dimensions
from lensemble.settings import Settings
from lensemble.stages.stage import Stage
from lensemble.stages.vector_stage import embedder_info, prepare_process, vector_rows
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Rows
from lensemble_contract.parameters import Parameters, whole_number


class ClipStage(Stage[ClipFeatures, NDArray[np.float32]]):
    """CLIP's token ids and pixels -> unit vectors."""

    model = contract.CLIP

    def __init__(self, settings: Settings, device: str) -> None:
        from lensemble.embedders.clip_encoder import ClipEncoder

        prepare_process(settings)
        self._encoder = ClipEncoder(settings, device)
        self.info = embedder_info(contract.CLIP_EMBEDDER, settings.clip or "", self._encoder)

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[ClipFeatures | LensembleError]:
        """See `Stage.read`."""
        dimensions = whole_number(parameters, contract.DIMENSIONS)
        check_dimensions(dimensions, self._encoder.dimension, contract.CLIP_EMBEDDER)
        tensors = (contract.INPUT_IDS, contract.PIXELS, contract.PICTURE_COUNT)
        columns = [rows[tensor.name] for tensor in tensors]
        return [self._row(*row) for row in zip(*columns, strict=True)]

    def _row(
        self, ids: NDArray[Any], pixels: NDArray[Any], pictures: NDArray[Any]
    ) -> ClipFeatures | LensembleError:
        count = int(pictures[0])
        most = min(len(pixels), contract.MAX_IMAGES_PER_ITEM)
        if not 0 <= count <= most:
            return InvalidInputError(
                f"{count}, with pixels of {len(pixels)}; expected 0 to {most}",
                field=contract.PICTURE_COUNT.name,
            )
        # The number of tokens is needed before this stage only.
        features = ClipFeatures(ids[ids != contract.PAD_ID], pixels[:count], tokens=0)
        try:
            self._encoder.check(features)
        except LensembleError as error:
            return error
        return features

    def run(self, rows: Sequence[ClipFeatures]) -> Sequence[NDArray[np.float32] | LensembleError]:
        """See `Stage.run`."""
        return self._encoder.encode(rows)

    def write(self, results: Sequence[NDArray[np.float32]]) -> Rows:
        """See `Stage.write`."""
        return vector_rows(results, self._encoder.profile)
