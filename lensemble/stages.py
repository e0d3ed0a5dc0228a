"""What each Triton model does, without Triton: rows of tensors in, rows of tensors out.

A stage reads the rows of one request, runs the rows of many requests together, and writes the
results of one request. `triton.respond` drives it; tests drive it by hand.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lensemble.checkpoint import Checkpoint
from lensemble.config import Settings
from lensemble.features import Features, fill, unfill
from lensemble.index import Index, Match, check_profile, check_query
from lensemble_client import contract
from lensemble_client.errors import InvalidInputError, LensembleError, NotReadyError, StorageError
from lensemble_client.items import Item, Rows, from_rows

logger = logging.getLogger(__name__)

# Triton's own, and headers that it may be told to forward.
_FOREIGN_PARAMETERS = ("triton_", "binary_data", "sequence_", "x-", "traceparent")

Row = TypeVar("Row")
Result = TypeVar("Result")
Parameters = Mapping[str, Any]


class Stage(Generic[Row, Result]):
    """One Triton model's work.

    Attributes:
        model: What it takes and gives.
    """

    model: contract.Model

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Row | LensembleError]:
        """The rows of one request, each read or refused.

        Raises:
            LensembleError: The whole request is refused.
        """
        raise NotImplementedError

    def run(self, rows: Sequence[Row]) -> Sequence[Result | LensembleError]:
        """Results for the rows of many requests, in order."""
        raise NotImplementedError

    def write(self, results: Sequence[Result]) -> Rows:
        """The output tensors of one request whose rows all succeeded."""
        raise NotImplementedError


class PreprocessStage(Stage[Item, Features]):
    """Items -> features."""

    model = contract.PREPROCESS

    def __init__(self, settings: Settings, device: str) -> None:
        import torch

        from lensemble.preprocess import Preprocessor

        torch.set_num_threads(1)  # instances run side by side, one core each
        self._preprocess = Preprocessor(Checkpoint.open(settings.checkpoint))

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[Item | LensembleError]:
        """See `Stage.read`."""
        return from_rows(rows)

    def run(self, rows: Sequence[Item]) -> Sequence[Features | LensembleError]:
        """See `Stage.run`."""
        return [self._one(item) for item in rows]

    def _one(self, item: Item) -> Features | LensembleError:
        try:
            return self._preprocess(item)
        except LensembleError as error:
            return error

    def write(self, results: Sequence[Features]) -> Rows:
        """See `Stage.write`."""
        return fill(results)


EncodeRow = tuple[Features, int | None]


class EncodeStage(Stage[EncodeRow, NDArray[np.float32]]):
    """Features -> unit vectors."""

    model = contract.QWEN3_VL

    def __init__(self, settings: Settings, device: str) -> None:
        import torch
        from transformers.utils import logging as transformers_logging

        from lensemble.encoder import Encoder

        transformers_logging.disable_progress_bar()  # it has no place in a server's log
        torch.set_num_threads(settings.cpu_threads)
        self._encoder = Encoder.load(Checkpoint.open(settings.checkpoint), settings, device)

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[EncodeRow | LensembleError]:
        """See `Stage.read`."""
        asked = _whole_number(parameters, contract.DIMENSIONS)
        dimensions = self._encoder.profile.check_dimensions(asked)
        return [
            row if isinstance(row, LensembleError) else (row, dimensions) for row in unfill(rows)
        ]

    def run(self, rows: Sequence[EncodeRow]) -> Sequence[NDArray[np.float32] | LensembleError]:
        """See `Stage.run`."""
        return self._encoder.encode([row for row, _ in rows], [asked for _, asked in rows])

    def write(self, results: Sequence[NDArray[np.float32]]) -> Rows:
        """See `Stage.write`."""
        return {contract.EMBEDDING.name: np.stack(results)}


SearchRow = tuple[NDArray[np.float32], int]


class SearchStage(Stage[SearchRow, list[Match]]):
    """Unit vectors -> nearest items."""

    model = contract.FAISS

    def __init__(self, settings: Settings, device: str) -> None:
        self._index: Index | None = None
        if settings.index is None:
            logger.warning("no index is configured: `search` will answer that it is not ready")
            return
        from lensemble.index.live import LiveIndex

        self._index = LiveIndex.open(settings.index)
        profile = Checkpoint.open(settings.checkpoint).profile
        check_profile(self._index.manifest, profile)
        self._full_length = profile.dimension
        logger.info("%d items from %s", self._index.manifest["count"], settings.index)

    def read(self, rows: Rows, parameters: Parameters) -> Sequence[SearchRow | LensembleError]:
        """See `Stage.read`."""
        if self._index is None:
            raise NotReadyError("no index is loaded; start the server with one (--index)")
        asked = _whole_number(parameters, contract.TOP_K)
        top_k = contract.DEFAULT_TOP_K if asked is None else asked
        if not 1 <= top_k <= contract.MAX_TOP_K:
            raise InvalidInputError(
                f"{top_k}; expected 1 to {contract.MAX_TOP_K}", field=contract.TOP_K
            )
        queries = rows[contract.EMBEDDING.name]
        length = self._index.manifest["dimension"]
        asked_length = _whole_number(parameters, contract.DIMENSIONS)
        if asked_length is None and queries.shape[1] == self._full_length > length:
            queries = _normalized(queries[:, :length])  # Matryoshka, as the index's vectors were
        for query in queries:
            check_query(length, query)
        return [(query, top_k) for query in queries]

    def run(self, rows: Sequence[SearchRow]) -> Sequence[list[Match] | LensembleError]:
        """See `Stage.run`."""
        if not rows or self._index is None:
            return []
        most = max(top_k for _, top_k in rows)
        try:
            found = self._index.search(np.stack([query for query, _ in rows]), most)
        except StorageError as error:
            logger.error("%s", error)
            return [error] * len(rows)
        return [matches[:top_k] for matches, (_, top_k) in zip(found, rows, strict=True)]

    def write(self, results: Sequence[list[Match]]) -> Rows:
        """See `Stage.write`."""
        ids = [[match.id.encode() for match in matches] for matches in results]
        scores = [[match.score for match in matches] for matches in results]
        documents = [[match.document.encode() for match in matches] for matches in results]
        shape = (len(results), len(ids[0]))
        return {
            contract.IDS.name: np.array(ids, np.object_).reshape(shape),
            contract.SCORES.name: np.array(scores, np.float32).reshape(shape),
            contract.DOCUMENTS.name: np.array(documents, np.object_).reshape(shape),
        }


def check_parameters(parameters: Parameters) -> None:
    """Refuses a request parameter that no model reads: a misspelt one would pass in silence.

    Raises:
        InvalidInputError: There is one that is neither known nor Triton's or a proxy's own.
    """
    for name in parameters:
        if name not in contract.PARAMETERS and not name.lower().startswith(_FOREIGN_PARAMETERS):
            raise InvalidInputError(
                f"no such request parameter; there are {', '.join(contract.PARAMETERS)}",
                field=name,
            )


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (B, D) at unit length; zeros and what is not finite stay for `check_query`."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.where(lengths > 0, lengths, 1)
    return unit


def _whole_number(parameters: Parameters, name: str) -> int | None:
    """A request parameter that is a whole number, however the protocol carried it."""
    value = parameters.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        return int(value) if isinstance(value, str) else _refuse(value)
    except ValueError:
        raise InvalidInputError(f"{value!r} is not a whole number", field=name) from None


def _refuse(value: object) -> int:
    raise ValueError(value)
