"""`faiss`: unit vectors -> nearest items."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Sequence

import numpy as np
from safetensors import safe_open

from lensemble.checkpoint import Checkpoint
from lensemble.index import IndexHits, Query
from lensemble.index.checks import check_profile
from lensemble.index.maintenance.create import ensure_index
from lensemble.index.search.live_index import LiveIndex
from lensemble.settings import Settings
from lensemble.stages.parameters import vectors_for_index
from lensemble.stages.stage import Gauge, Stage
from lensemble_contract import contract, filters
from lensemble_contract import parameters as request_parameters
from lensemble_contract.errors import InvalidInputError, LensembleError, NotReadyError
from lensemble_contract.index_checks import check_id
from lensemble_contract.items import Rows
from lensemble_contract.parameters import Parameters

logger = logging.getLogger(__name__)

# Key of the index's manifest, and its metric.
_GAUGES = {
    "count": ("lensemble_index_items", "Items that can be found."),
    "delta": ("lensemble_index_delta", "Items that were written since the snapshot."),
    "dead": (
        "lensemble_index_dead",
        "Items of the snapshot that were removed or replaced.",
    ),
    "sequence": (
        "lensemble_index_sequence",
        "Sequence number of the last write in searches.",
    ),
    "on_gpu": ("lensemble_index_on_gpu", "1 if a GPU searches the snapshot."),
    "recall_at_10": ("lensemble_index_recall", "Recall@10 of the snapshot when it was built."),
}
_COMPACT = (
    "lensemble_index_compact_rows",
    "Changed items that start a compaction; 0: none.",
)


class SearchStage(Stage[Query, IndexHits]):
    """Unit vectors -> nearest items."""

    model = contract.FAISS
    patience_s = 30.0  # the index may be read from a slow disk

    def __init__(self, settings: Settings, device: str) -> None:
        self._index: LiveIndex | None = None
        if settings.index is None:
            logger.warning("no index is configured; `search` will answer that it is not ready")
            return
        profile = Checkpoint.open(settings.checkpoint).profile
        if settings.writes == "on":
            ensure_index(settings.index, profile)
        self._compact_rows = settings.compact_rows if settings.writes == "on" else 0
        # The encoder on the same GPU may not have loaded its weights yet.
        reserved = settings.encoder_instances * _weights_bytes(settings)
        self._index = LiveIndex.open(settings.index, device, profile.hash, reserved)
        self._profile = profile
        logger.info("%d items from %s", len(self._index), settings.index)

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Query | LensembleError]:
        """See `Stage.read`."""
        if self._index is None:
            raise NotReadyError("no index is loaded; start the server with one (--index)")
        top_k = request_parameters.whole_number(parameters, contract.TOP_K)
        if top_k is None:
            top_k = contract.DEFAULT_TOP_K
        if not 1 <= top_k <= contract.MAX_TOP_K:
            raise InvalidInputError(
                f"{top_k}; expected 1 to {contract.MAX_TOP_K}", field=contract.TOP_K
            )
        if profile_hash := request_parameters.text(parameters, contract.PROFILE):
            check_profile(self._profile.name, self._profile.hash, profile_hash)
        like = request_parameters.text(parameters, contract.LIKE)
        # The filter's own limit counts bytes, and is checked when it is parsed.
        condition = request_parameters.text(parameters, contract.FILTER, filters.MAX_BYTES)
        exclude = request_parameters.ids(parameters, contract.EXCLUDE, contract.MAX_EXCLUDED)
        min_score = request_parameters.number(parameters, contract.MIN_SCORE, -np.inf)
        vectors = rows[contract.EMBEDDING.name]
        if like:
            if vectors.shape[1]:
                raise InvalidInputError(
                    "there is also a vector; send either of them to `faiss`",
                    field=contract.LIKE,
                )
            check_id(like, contract.LIKE)
            return [Query(None, top_k, condition, exclude, min_score, like) for _ in vectors]
        return [
            vector
            if isinstance(vector, LensembleError)
            else Query(vector, top_k, condition, exclude, min_score)
            for vector in vectors_for_index(
                vectors,
                parameters,
                index_dimension=self._index.dimension,
                profile_dimension=self._profile.dimension,
            )
        ]

    def run(self, rows: Sequence[Query]) -> Sequence[IndexHits | LensembleError]:
        """See `Stage.run`."""
        if not rows or self._index is None:
            return []
        try:
            return self._index.answer(rows)
        except LensembleError as error:
            logger.error("%s", error)
            return [error] * len(rows)

    def write(self, results: Sequence[IndexHits]) -> Rows:
        """See `Stage.write`. Rows with fewer hits are padded with `contract.NO_ID`."""
        shape = (len(results), max(len(hits) for hits in results))
        ids = np.full(shape, contract.NO_ID, np.object_)
        scores = np.full(shape, -1, np.float32)
        documents = np.full(shape, b"{}", np.object_)
        for n, hits in enumerate(results):
            ids[n, : len(hits)] = [hit.id.encode() for hit in hits]
            scores[n, : len(hits)] = [hit.score for hit in hits]
            documents[n, : len(hits)] = [hit.document.encode() for hit in hits]
        warnings = [[json.dumps(hits.warnings).encode()] for hits in results]
        return {
            contract.WARNINGS.name: np.array(warnings, np.object_),
            contract.IDS.name: ids,
            contract.SCORES.name: scores,
            contract.DOCUMENTS.name: documents,
        }

    def check(self) -> None:
        """See `Stage.check`. It ignores errors of the index, because a restart cannot repair it."""
        if self._index is not None:
            with contextlib.suppress(LensembleError):
                self._index.refresh()

    def gauges(self) -> Sequence[Gauge]:
        """See `Stage.gauges`."""
        if self._index is None:
            return ()
        manifest = self._index.manifest
        return [
            *(Gauge(*metric, {}, float(manifest[key])) for key, metric in _GAUGES.items()),
            Gauge(*_COMPACT, {}, self._compact_rows),
        ]

    def close(self) -> None:
        """See `Stage.close`."""
        if self._index is not None:
            self._index.close()


def _weights_bytes(settings: Settings) -> int:
    """Size of an encoder's weights on a GPU, whatever their precision in the files is."""
    count = 0
    for path in settings.checkpoint.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    return count * (4 if settings.dtype == "fp32" else 2)
