"""`qwen3_vl`: features -> unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.vector_cache.caching_encoder import CachingEncoder
from lensemble.encoder.vector_cache.stores import LocalVectors, SharedVectors, VectorStore
from lensemble.preprocess.features import Features, unpad
from lensemble.scheduling.lanes import lane_of
from lensemble.settings import Settings
from lensemble.stages.parameters import deadline_of
from lensemble.stages.stage import Counter, LaneStage
from lensemble.stages.vector_stage import prepare_process, vector_rows
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Rows
from lensemble_contract.parameters import Parameters, whole_number

if TYPE_CHECKING:
    from lensemble.encoder.engine import Engine

_VECTORS = ("lensemble_vectors_total", "Vectors by source: encoded, repeated in a batch, cached.")
_TOWERS = ("lensemble_tower_seconds_total", "Seconds in each tower.")
# Each sum of the pass statistics, and its metric.
_PASS_METRICS = {
    "passes": ("lensemble_passes_total", "Micro-batches that were encoded."),
    "items": ("lensemble_pass_items_total", "Items in the encoded micro-batches."),
    "tokens": ("lensemble_pass_tokens_total", "Tokens in the encoded micro-batches."),
    "patches": ("lensemble_pass_patches_total", "Patches in the encoded micro-batches."),
    "budget": (
        "lensemble_pass_budget_total",
        "Sum of the shares of the budget in use.",
    ),
}

# Features, length of the vector to return, deadline.
EncodeRow = tuple[Features, int, int]


class EncodeStage(LaneStage[EncodeRow, NDArray[np.float32]]):
    """Features -> unit vectors."""

    model = contract.QWEN3_VL

    def __init__(self, settings: Settings, device: str) -> None:
        from lensemble.encoder.choose_engine import load_engine
        from lensemble.encoder.pooling import cut_vector

        prepare_process(settings)
        self._encoder = load_engine(Checkpoint.open(settings.checkpoint), settings, device)
        self._encoder.warm_up()
        self._cut = cut_vector
        self._encode = CachingEncoder(
            lambda items, deadlines: self._encoder.start(items, deadlines=deadlines),
            _vector_store(settings, self._encoder),
        )
        self.info = engine_info(self._encoder)

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[EncodeRow | LensembleError]:
        """See `Stage.read`."""
        dimensions = self._encoder.profile.check_dimensions(
            whole_number(parameters, contract.DIMENSIONS)
        )
        deadline = deadline_of(rows, parameters)
        return [self._row(features, dimensions, deadline) for features in unpad(rows)]

    def _row(
        self, features: Features | LensembleError, dimensions: int, deadline: int
    ) -> EncodeRow | LensembleError:
        """A row to encode, or its error. One that is too long must not wait in a lane."""
        if isinstance(features, LensembleError):
            return features
        try:
            self._encoder.check_length(features)
        except LensembleError as error:
            return error
        return features, dimensions, deadline

    def run(self, rows: Sequence[EncodeRow]) -> Sequence[NDArray[np.float32] | LensembleError]:
        """See `Stage.run`."""
        return self._start(rows)()

    def start(
        self, rows: Sequence[EncodeRow]
    ) -> Callable[[], Sequence[NDArray[np.float32] | LensembleError]]:
        """See `LaneStage.start`."""
        return super().start(rows) if self.passes_in_flight == 1 else self._start(rows)

    def _start(
        self, rows: Sequence[EncodeRow]
    ) -> Callable[[], Sequence[NDArray[np.float32] | LensembleError]]:
        if not rows:
            return list  # `list()` is the empty list of results
        items, dimensions, deadlines = (list(column) for column in zip(*rows, strict=True))
        wait = self._encode.start(items, deadlines)
        return lambda: [
            vector if isinstance(vector, LensembleError) else self._cut(vector, length)
            for vector, length in zip(wait(), dimensions, strict=True)
        ]

    @property
    def passes_in_flight(self) -> int:
        """See `LaneStage.passes_in_flight`."""
        return self._encoder.passes_in_flight

    def lane(self, rows: Sequence[EncodeRow]) -> str:
        """See `LaneStage.lane`."""
        return lane_of(len(rows), pictures=any(len(features.patches) for features, *_ in rows))

    def costs(self, row: EncodeRow) -> tuple[float, ...]:
        """See `LaneStage.costs`."""
        return self._encoder.budget_shares(row[0])

    def clean_up(self) -> None:
        """See `LaneStage.clean_up`."""
        self._encoder.trim_memory()

    def copied(self, row: EncodeRow) -> EncodeRow:
        """See `LaneStage.copied`."""
        features, dimensions, deadline = row
        return features.copy(), dimensions, deadline

    def check(self) -> None:
        """See `Stage.check`. After a CUDA context is lost, for example, every pass fails."""
        self._encoder.self_test()

    def counters(self) -> Sequence[Counter]:
        """See `Stage.counters`."""
        counts = self._encode.counts
        work = self._encoder.statistics.sums()
        towers = {"vision": work.pop("vision_s"), "text": work.pop("text_s")}
        return [
            *(Counter(*_VECTORS, {"source": key}, count) for key, count in asdict(counts).items()),
            *(Counter(*_TOWERS, {"tower": key}, seconds) for key, seconds in towers.items()),
            *(Counter(*_PASS_METRICS[key], {}, value) for key, value in work.items()),
        ]

    def write(self, results: Sequence[NDArray[np.float32]]) -> Rows:
        """See `Stage.write`."""
        return vector_rows(results, self._encoder.profile.hash)


def _vector_store(settings: Settings, encoder: Engine) -> VectorStore:
    """Several encoder processes share one store; a single one keeps vectors in its memory."""
    import torch

    capacity = settings.cache_mib * 1024**2
    devices = torch.cuda.device_count() if encoder.device.type == "cuda" else 1
    if not capacity or settings.heartbeats is None or settings.encoder_instances * devices == 1:
        return LocalVectors(capacity)
    return SharedVectors(settings.heartbeats / "vectors", capacity, encoder.profile.hash)


def engine_info(encoder: Engine) -> dict[str, str]:
    """Facts about an encoder for operators; see `Stage.info`."""
    import torch

    device, profile = encoder.device, encoder.profile
    return {
        "model": profile.model_id,
        "profile": profile.hash,
        "dimension": str(profile.dimension),
        "min_dimension": str(profile.min_dimension),
        "engine": encoder.engine_name,
        "dtype": encoder.precision,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
    }
