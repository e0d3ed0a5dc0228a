"""Approximate scores from float16 copies of the vectors, and a proven bound of their error.

A GPU multiplies float16 values several times faster than float32 values and reads half the bytes.
float16 serves unit vectors better than bfloat16: its values lie within -1 and 1, so the larger
range of bfloat16 is not needed, and float16 rounds eight times more finely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

# Rows of a group. A selection first takes each group's best score; only the groups with the highest
# ones are read again, so that the selection reads the scores little more than once.
GROUP = 64
# Relative error of one addition in a matrix product. Tensor cores add in float32, but truncate
# (2**-23) and align the numbers of a block before they add them: M. Fasi, N. J. Higham,
# M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7,
# 2021. Twice that covers both. CPUs round to 2**-24.
_ADDITION_ERROR = 2.0**-22
# Covers the rounding of the bounds themselves.
_SLACK = 1.001
_UPLOAD_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HalfVectors:
    """Vectors in float16 on one device.

    Attributes:
        codes: (M, D) float16. M is the smallest multiple of `GROUP` that is at least N; the rows
            after N are zero.
        count: number N of vectors.
        length: upper bound of the lengths of the original vectors.
        rounding: upper bound of the length of (original vector - its code).
    """

    codes: torch.Tensor = field(repr=False)
    count: int
    length: float
    rounding: float

    @classmethod
    def upload(cls, vectors: NDArray[np.float32], device: torch.device) -> Self:
        """Copies vectors (N, D) float32 to a device, in parts of at most 64 MiB; N is at least 1.

        `rounding` is infinite or NaN if a value is too large for float16.

        Raises:
            RuntimeError: The device has too little memory, or fails.
        """
        count, dimension = vectors.shape
        rows = -(-count // GROUP) * GROUP
        codes = torch.zeros(rows, dimension, dtype=torch.float16, device=device)
        largest = torch.zeros(2, device=device)
        for start, part in parts(vectors, device):
            half = part.half()
            codes[start : start + len(part)] = half
            lengths = torch.linalg.vector_norm(part, dim=1).amax()
            roundings = torch.linalg.vector_norm(half.float() - part, dim=1).amax()
            largest = torch.maximum(largest, torch.stack([lengths, roundings]))
        length, rounding = (_SLACK * value for value in largest.tolist())
        return cls(codes, count, length, rounding)

    def error_bounds(
        self, queries: NDArray[np.float32], codes: NDArray[np.float16]
    ) -> NDArray[np.float64]:
        """How far the scores of `blocks` may be from float32 scores of the original vectors.

        With x a vector, q a query, x' and q' their codes, in exact arithmetic::

            |x'q' - xq| = |(x' - x)q' + x(q' - q)| <= |x' - x| |q'| + |x| |q' - q|

        (Cauchy-Schwarz). Adding D products in any order, each addition with a relative error of u,
        errs by at most about D u |x'| |q'| (N. J. Higham, "Accuracy and Stability of Numerical
        Algorithms", 2002, section 3.1). That is added once for the float16 product, and once for
        the float32 score, which it is compared with.

        Args:
            queries: (B, D) float32.
            codes: (B, D) float16, the same rounded.

        Returns:
            (B,) float64; infinite where a value is too large for float16.
        """
        exact, rounded = queries.astype(np.float64), codes.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            query, code = np.linalg.norm(exact, axis=1), np.linalg.norm(rounded, axis=1)
            rounding = np.linalg.norm(rounded - exact, axis=1)
            addition = _ADDITION_ERROR * queries.shape[1]
            bounds = (
                self.rounding * code
                + self.length * rounding
                + addition * (self.length + self.rounding) * code
                + addition * self.length * query
            )
        return np.where(np.isfinite(bounds), _SLACK * bounds, np.inf)

    def blocks(self, codes: torch.Tensor, scores_bytes: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Scores of all rows, a block of rows at a time.

        Args:
            codes: (B, D) float16, the queries' codes on this device.
            scores_bytes: largest size of a block's scores.

        Yields:
            The first row of the block, and scores (B, R) float32; R is a multiple of `GROUP`.
        """
        # CPUs have no float16 product; the block is converted to float32 there.
        width = len(codes) if codes.is_cuda else max(codes.shape)
        step = max(1, scores_bytes // (4 * GROUP * width)) * GROUP
        for start in range(0, len(self.codes), step):
            yield start, _product(codes, self.codes[start : start + step])

    def candidates(
        self, codes: torch.Tensor, count: int, blocked: torch.Tensor | None, scores_bytes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows with the highest scores. It never waits for the device.

        The `count` best rows lie in the `count` groups whose best scores are highest, so only these
        groups are searched. Every other row has at most the lowest score of the result.

        Args:
            codes: (B, D) float16, the queries' codes on this device.
            count: number C of candidates for a query.
            blocked: (M,) bool, rows that must not be returned, among them those after N; None
                allows all N.
            scores_bytes: largest size of a block's scores.

        Returns:
            Scores (B, C) float32 and rows (B, C) int64 in no particular order; scores are -inf
            where there are fewer rows, and such rows are arbitrary, up to M - 1. There are
            min(C, M) columns.
        """
        best = codes.new_empty(len(codes), 0, dtype=torch.float32)
        rows = codes.new_empty(len(codes), 0, dtype=torch.int64)
        for start, scores in self.blocks(codes, scores_bytes):
            end = start + scores.shape[1]
            if blocked is not None:
                scores.masked_fill_(blocked[start:end], -torch.inf)
            elif end > self.count:
                scores[:, self.count - start :].fill_(-torch.inf)
            found, places = _largest_by_groups(scores, count)
            best = torch.cat([best, found], 1)
            rows = torch.cat([rows, places + start], 1)
            if best.shape[1] > count:
                best, order = best.topk(count, 1, sorted=False)
                rows = rows.gather(1, order)
        return best, rows


def parts(vectors: NDArray[np.float32], device: torch.device) -> Iterator[tuple[int, torch.Tensor]]:
    """Vectors (N, D) on a device in parts of at most 64 MiB, each with its first row's number."""
    step = max(1, _UPLOAD_BYTES // (4 * vectors.shape[1]))
    for start in range(0, len(vectors), step):
        yield start, torch.from_numpy(vectors[start : start + step]).to(device)


def _product(queries: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Inner products (B, R) float32 of float16 rows (B, D) and (R, D), summed in float32."""
    if codes.is_cuda:
        return torch.mm(queries, codes.t(), out_dtype=torch.float32)
    return functional.linear(queries.float(), codes.float())


def _largest_by_groups(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest scores (B, C) among (B, R), and their columns (B, C), in no particular order."""
    groups = scores.view(len(scores), -1, GROUP)
    chosen = groups.amax(2).topk(min(count, groups.shape[1]), 1, sorted=False).indices
    members = groups.gather(1, chosen.unsqueeze(2).expand(-1, -1, GROUP)).flatten(1)
    best, order = members.topk(min(count, members.shape[1]), 1, sorted=False)
    return best, chosen.gather(1, order // GROUP) * GROUP + order % GROUP
