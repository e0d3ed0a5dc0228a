"""`preprocess`: items -> features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lensemble.checkpoint import Checkpoint
from lensemble.preprocess.features import Features, pad
from lensemble.scheduling.admission import AdmissionControl
from lensemble.scheduling.lanes import lane_of
from lensemble.scheduling.slots import Slots
from lensemble.settings import Settings
from lensemble.stages.stage import Counter, Stage, run_each
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item, Rows, from_rows
from lensemble_contract.parameters import Parameters

_REFUSED = ("lensemble_refused_total", "Requests that admission refused.")


class PreprocessStage(Stage[Item, Features]):
    """Items -> features."""

    model = contract.PREPROCESS

    def __init__(self, settings: Settings, device: str) -> None:
        import torch

        from lensemble.preprocess.preprocessor import Preprocessor

        torch.set_num_threads(1)  # each instance uses one core
        self._preprocess = Preprocessor(
            Checkpoint.open(settings.checkpoint),
            scaled=settings.jpeg == "scaled",
            slots=Slots(settings.heartbeats, self.model.name),
        )
        self._admission = AdmissionControl(settings.heartbeats, settings.max_wait_s)

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Item | LensembleError]:
        """See `Stage.read`."""
        pictures = rows.get(contract.IMAGE.name)
        count = len(next(iter(rows.values()), ()))
        self._admission.check(lane_of(count, pictures=pictures is not None and pictures.size > 0))
        return from_rows(rows)

    def run(self, rows: Sequence[Item]) -> Sequence[Features | LensembleError]:
        """See `Stage.run`."""
        return run_each(self._preprocess, rows)

    def check(self) -> None:
        """See `Stage.check`."""
        self._preprocess(Item("ping"))

    def counters(self) -> Sequence[Counter]:
        """See `Stage.counters`."""
        return [Counter(*_REFUSED, {}, self._admission.refused)]

    def write(self, results: Sequence[Features]) -> Rows:
        """See `Stage.write`."""
        tokens = np.array([[len(features.input_ids)] for features in results], np.int32)
        return {**pad(results), contract.TOKENS.name: tokens}
