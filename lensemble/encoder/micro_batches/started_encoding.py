"""Encoding that goes on while its caller prepares the next items.

A GPU computes a pass by itself after the CPU has launched it. So a micro-batch is launched, and the
next one is packed and uploaded while the GPU works; results are collected in order. On CPUs a pass
runs when its result is collected, so the same code runs one micro-batch after another there.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from lensemble.encoder.micro_batches.halving import encode_with_halving
from lensemble.encoder.pooling import cut_vector
from lensemble.preprocess.features import Features
from lensemble.scheduling.deadline import is_over, too_late
from lensemble.vectors import Vector
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError, OverloadedError

logger = logging.getLogger(__name__)

# Waits for the vectors (S, D) of a launched pass; raises the exception of a pass that failed.
WaitForVectors = Callable[[], Vector]


class StartedEncoding:
    """The encoding of some items; its first micro-batches are launched at once.

    Args:
        launch: launches a pass over some items.
        passes_in_flight: number of passes that may be launched before the first has ended.
        items: features that `check_features` has accepted.
        dimensions: Matryoshka length of each item's vector; None is the profile's full length.
        deadlines: deadline of each item, as in `contract.DEADLINE`, or None. It is checked before
            the item's micro-batch is launched.
        micro_batches: indices into `items`, one list for each micro-batch; together they have each
            item once.
    """

    def __init__(
        self,
        launch: Callable[[Sequence[Features]], WaitForVectors],
        passes_in_flight: int,
        items: Sequence[Features],
        dimensions: Sequence[int | None],
        deadlines: Sequence[int] | None,
        micro_batches: Sequence[Sequence[int]],
    ) -> None:
        self._launch_pass, self._passes_in_flight, self._items = launch, passes_in_flight, items
        self._dimensions, self._deadlines = dimensions, deadlines
        self._waiting: Iterator[Sequence[int]] = iter(micro_batches)
        self._launched: deque[tuple[Sequence[int], WaitForVectors | None]] = deque()
        self._results: dict[int, Vector | LensembleError] = {}
        self._fill()

    def results(self) -> list[Vector | LensembleError]:
        """Waits for all micro-batches.

        Returns:
            For each item, in order, its vector (D,), float32, unit length, or its own error.
        """
        while self._launched:
            indices, wait = self._launched.popleft()
            items = [self._items[n] for n in indices]
            for n, result in zip(indices, self._collect(items, wait), strict=True):
                self._results[n] = (
                    result
                    if isinstance(result, LensembleError)
                    else cut_vector(result, self._dimensions[n])
                )
            self._fill()
        return [self._results[n] for n in range(len(self._items))]

    def _fill(self) -> None:
        """Launches micro-batches until as many are in flight as may be."""
        while len(self._launched) < self._passes_in_flight:
            indices = next(self._waiting, None)
            if indices is None:
                return
            in_time = []
            for n in indices:
                if self._deadlines is not None and is_over(self._deadlines[n]):
                    self._results[n] = too_late(contract.QWEN3_VL.name)
                else:
                    in_time.append(n)
            if in_time:
                self._launched.append((in_time, self._launch([self._items[n] for n in in_time])))

    def _launch(self, items: Sequence[Features]) -> WaitForVectors | None:
        """Launches a pass; None if that failed, and then `_collect` tries again.

        When `_collect` tries again, the passes before it have ended and have freed their memory.
        """
        try:
            return self._launch_pass(items)
        except Exception as error:
            logger.warning("a pass of %d items could not be launched: %s", len(items), error)
            return None

    def _collect(
        self, items: Sequence[Features], wait: WaitForVectors | None
    ) -> list[Vector | LensembleError]:
        """Waits for a launched pass; if it failed, runs its halves, and so on."""
        first = [wait] if wait is not None else []

        def encode(part: Sequence[Features]) -> Vector:
            return first.pop()() if first else self._launch_pass(part)()

        return encode_with_halving(items, encode, _too_large)


def _too_large(item: Features) -> OverloadedError:
    smaller = "smaller picture" if len(item.patches) else "shorter text"
    return OverloadedError(
        f"an item of {len(item.input_ids)} tokens and {len(item.patches)} patches does not "
        f"fit into memory, even alone; send a {smaller}",
        field=contract.IMAGE.name if len(item.patches) else contract.TEXT.name,
    )
