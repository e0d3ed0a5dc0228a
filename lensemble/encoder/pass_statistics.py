"""Counts what the encoder has done: passes, tokens, patches, and the time in each tower."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

# Marks in one pass: before the vision tower, between the towers, and after the text tower.
_MARKS_PER_PASS = 3


@dataclass(slots=True)
class PassStatistics:
    """Sums over all passes since the encoder was loaded.

    Attributes:
        passes: number of passes, one per micro-batch.
        items: number of items in them.
        tokens: tokens that the text tower computed; a shared prefix counts once per pass.
        patches: patches that the vision tower computed.
        budget: sum of the share of the token budget or of the patch budget that each pass used,
            whichever was larger. Divided by `passes`, it says how full passes were.
        vision_s: seconds in the vision tower.
        text_s: seconds in the text tower.
    """

    passes: int = 0
    items: int = 0
    tokens: int = 0
    patches: int = 0
    budget: float = 0.0
    vision_s: float = 0.0
    text_s: float = 0.0

    def add(self, **increments: float) -> None:
        """Adds to the sums that are named."""
        for name, increment in increments.items():
            setattr(self, name, getattr(self, name) + increment)

    def sums(self) -> dict[str, float]:
        """Returns the sums by name."""
        return asdict(self)


class TowerTimer:
    """Measures the seconds between marks in one pass.

    On GPUs the marks are CUDA events, so that marking does not wait for the device.

    Args:
        device: device that runs the pass.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        # Bounded, because training marks passes but never reads the times.
        self._marks: deque[Any] = deque(maxlen=_MARKS_PER_PASS)

    def mark(self) -> None:
        """Marks the end of one part of the pass and the beginning of the next."""
        if self._on_gpu:
            event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Returns the seconds between neighbouring marks; to be called when the pass has ended."""
        difference: Callable[[Any, Any], float] = (
            (lambda start, end: start.elapsed_time(end) / 1000)
            if self._on_gpu
            else (lambda start, end: end - start)
        )
        return [difference(start, end) for start, end in itertools.pairwise(self._marks)]
