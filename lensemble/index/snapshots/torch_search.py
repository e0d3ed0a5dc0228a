"""Exact search by PyTorch, on a GPU or on a CPU.

Scores of float16 copies choose more candidates than are asked for. The candidates get their float32
scores from the original vectors. The result equals that of comparing the query with every vector in
float32: a row that is no candidate has at most the lowest float16 score c among the candidates, so
its float32 score is at most c + e, where e bounds the difference of the two kinds of scores
(`HalfVectors.error_bounds`). If the k-th best float32 score t exceeds c + e, no such row belongs to
the result. Otherwise, as with many equal vectors, every row whose float16 score is at least t - e
gets its float32 score, too: all others score less than t.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from lensemble.index.snapshots.exact_search import ScoredRows
from lensemble.index.snapshots.half_vectors import GROUP, HalfVectors, parts

# Candidates beyond k: at least this number, and at least half of k. More of them make it likelier
# that the bound is met at once, and cost little beside the product with all vectors.
_MIN_MARGIN = 54
# Largest sizes of a block's scores, and of the vectors that are scored again at a time.
_SCORES_BYTES = 128 * 1024 * 1024
_RESCORED_BYTES = 64 * 1024 * 1024
# Scores that are widened at a time: each row that is kept takes another 8 bytes.
_WIDENED_BYTES = 16 * 1024 * 1024
# A search takes the scores, twice the vectors that are scored again, and selections.
WORKSPACE_BYTES = 512 * 1024 * 1024


class TorchSearch:
    """Searches vectors exactly.

    Args:
        half: the vectors in float16; their device computes.
        vectors: (N, D) float32, the original vectors, on the same device or in host memory.
    """

    def __init__(self, half: HalfVectors, vectors: torch.Tensor) -> None:
        self._half, self._vectors = half, vectors

    @classmethod
    def load(
        cls, vectors: NDArray[np.float32], device: torch.device, *, vectors_on_device: bool
    ) -> Self:
        """Copies vectors to a device.

        Args:
            vectors: (N, D) float32, N at least 1; used by later searches unless they are copied.
            device: device that computes.
            vectors_on_device: whether the original vectors are copied, too (`device_bytes`).

        Raises:
            RuntimeError: The device has too little memory, or fails.
            ValueError: Some vectors are too long for float16.
        """
        with torch.inference_mode():
            half = HalfVectors.upload(vectors, device)
            if not np.isfinite(half.length + half.rounding):
                raise ValueError("float16 cannot hold some vectors, which are not of unit length")
            if not vectors_on_device:
                return cls(half, torch.from_numpy(vectors))
            copy = torch.empty(vectors.shape, dtype=torch.float32, device=device)
            for start, part in parts(vectors, device):
                copy[start : start + len(part)] = part
            return cls(half, copy)

    @torch.inference_mode()
    def search(
        self, queries: NDArray[np.float32], k: int, usable: NDArray[np.bool_] | None = None
    ) -> ScoredRows:
        """Finds the k vectors with the highest scores; among equal scores, the first positions.

        Args:
            queries: (B, D) float32.
            k: number of vectors, at most the number of usable ones.
            usable: (N,) bool, positions that may be returned; None allows all.

        Returns:
            Scores (B, k) float32 and positions (B, k) int64, best first; -inf and -1 for a query
            that is not finite.

        Raises:
            RuntimeError: The device has too little memory, or fails.
        """
        scores = np.full((len(queries), k), -np.inf, np.float32)
        positions = np.full((len(queries), k), -1, np.int64)
        finite = np.isfinite(queries).all(axis=1)
        if finite.any():
            scores[finite], positions[finite] = self._search_finite(queries[finite], k, usable)
        return scores, positions

    def _search_finite(
        self, queries: NDArray[np.float32], k: int, usable: NDArray[np.bool_] | None
    ) -> ScoredRows:
        """`search` for queries that are finite."""
        with np.errstate(over="ignore"):
            halves = queries.astype(np.float16)
        bounds = self._half.error_bounds(queries, halves)
        device = self._half.codes.device
        codes = torch.from_numpy(halves).to(device)
        full = torch.from_numpy(queries).to(self._vectors.device)
        blocked = None if usable is None else self._blocked(usable)
        errors = torch.from_numpy(bounds).to(self._vectors.device)
        found, rows, proven = self.first_pass(codes, full, errors, k, blocked)
        scores, positions = found.cpu().numpy(), rows.cpu().numpy()
        for query in np.flatnonzero(~proven.cpu().numpy()).tolist():
            exact = float(scores[query, -1]) - float(bounds[query])
            least = float(np.nextafter(np.float32(exact), np.float32(-np.inf)))  # rounds down
            scores[query], positions[query] = self._widened(
                codes[query : query + 1], full[query], k, least, blocked
            )
        return scores, positions

    def first_pass(
        self,
        codes: torch.Tensor,
        queries: torch.Tensor,
        bounds: torch.Tensor,
        k: int,
        blocked: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best k candidates. It waits for the device only if the originals are in host memory.

        Args:
            codes: (B, D) float16, on the device of the codes.
            queries: (B, D) float32, on the device of the original vectors, as are the results.
            bounds: (B,) float64, `HalfVectors.error_bounds`.
            k: number of vectors for each query.
            blocked: see `HalfVectors.candidates`.

        Returns:
            Scores (B, k) float32, positions (B, k) int64, best first, and whether each result is
            proven to be right, (B,) bool.
        """
        wanted = k + max(_MIN_MARGIN, k // 2)
        halves, rows = self._half.candidates(codes, wanted, blocked, _SCORES_BYTES)
        halves, rows = (tensor.to(self._vectors.device) for tensor in (halves, rows))
        rows, order = rows.sort(1)  # the first positions come first among equal scores
        halves = halves.gather(1, order)
        # Rows from N on are padding. They are clamped only to be valid indices; their score becomes
        # -inf below.
        scores = self._true_scores(queries, rows.clamp(max=len(self._vectors) - 1))
        scores = scores.masked_fill(halves == -torch.inf, -torch.inf)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        scores, rows = scores[:, :k], rows.gather(1, order[:, :k])
        lowest = halves.amin(1).double()
        # If float16 cannot hold the query, usable rows may score -inf or NaN: nothing is proven.
        proven = bounds.isfinite()
        if halves.shape[1] < len(self._half.codes):  # not every vector is a candidate
            proven &= scores[:, -1].double() > lowest + bounds
        return scores, rows, proven

    def _widened(
        self,
        code: torch.Tensor,
        query: torch.Tensor,
        k: int,
        least: float,
        blocked: torch.Tensor | None,
    ) -> ScoredRows:
        """The best k among all rows whose float16 score is at least `least`.

        Args:
            code: (1, D) float16.
            query: (D,) float32.
            k: number of vectors.
            least: float16 scores below it exclude a row.
            blocked: see `HalfVectors.candidates`.
        """
        device = self._vectors.device
        best = torch.empty(0, device=device)
        positions = torch.empty(0, dtype=torch.int64, device=device)
        step = max(1, _RESCORED_BYTES // (4 * len(query)))
        for start, scores in self._half.blocks(code, _WIDENED_BYTES):
            # Not `>=`: a score that is not a number excludes no row.
            kept = ~(scores[0, : self._half.count - start] < least)
            if blocked is not None:
                kept &= ~blocked[start : start + len(kept)]
            for rows in torch.split((kept.nonzero()[:, 0] + start).to(device), step):
                found = self._true_scores(query[None], rows[None])[0]
                # Stable, so that earlier positions stay first among equal scores.
                best, order = torch.cat([best, found]).sort(descending=True, stable=True)
                best = best[:k]
                positions = torch.cat([positions, rows])[order[:k]]
        return best.cpu().numpy(), positions.cpu().numpy()

    def _true_scores(self, queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Scores (B, C) of rows (B, C) for queries (B, D), from the original vectors.

        Products are summed row by row and not by a matrix product, so that equal vectors get equal
        scores wherever they lie.
        """
        size = max(1, _RESCORED_BYTES // max(1, 4 * rows.shape[1] * queries.shape[1]))
        scores = [
            (self._vectors[chosen] * some.unsqueeze(1)).sum(2)
            for some, chosen in zip(
                torch.split(queries, size), torch.split(rows, size), strict=True
            )
        ]
        return torch.cat(scores)

    def _blocked(self, usable: NDArray[np.bool_]) -> torch.Tensor:
        """(M,) bool on the device: rows that must not be returned."""
        blocked = np.ones(len(self._half.codes), np.bool_)
        np.logical_not(usable, out=blocked[: len(usable)])
        return torch.from_numpy(blocked).to(self._half.codes.device)


def device_bytes(count: int, dimension: int, *, vectors_on_device: bool) -> int:
    """Device memory of a `TorchSearch` of (count, dimension) vectors with its working memory."""
    rows = -(-count // GROUP) * GROUP
    stored = 2 * rows * dimension + (4 * count * dimension if vectors_on_device else 0)
    masks = 2 * rows  # usable rows, and blocked ones
    return stored + masks + WORKSPACE_BYTES
