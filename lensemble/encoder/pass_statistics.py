"""What the encoder has done so far: passes, tokens, patches, and how long each tower took."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

_MARKS = 3
"""Of one pass: around the vision tower, and after the text tower."""


@dataclass(slots=True)
class Work:
    """Sums since the encoder was loaded.

    Attributes:
        passes: Micro-batches.
        items: In them.
        tokens: That the text tower computed; a beginning that all items share counts once.
        patches: That the vision tower computed.
        budget: Parts of the token or patch budget that passes used, whichever was larger: divided
            by `passes`, how full they were.
        vision_s: Seconds in the vision tower.
        text_s: Seconds in the text tower.
    """

    passes: int = 0
    items: int = 0
    tokens: int = 0
    patches: int = 0
    budget: float = 0.0
    vision_s: float = 0.0
    text_s: float = 0.0

    def add(self, **more: float) -> None:
        """Adds to each sum that is named."""
        for name, value in more.items():
            setattr(self, name, getattr(self, name) + value)

    def sums(self) -> dict[str, float]:
        """Name -> sum."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


class Stopwatch:
    """Times between marks in one pass: on GPUs by events, which make nobody wait.

    Args:
        device: Where the pass runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: deque[Any] = deque(maxlen=_MARKS)  # training never asks

    def mark(self) -> None:
        """Here one part ends and the next begins."""
        if self._on_gpu:
            event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Between each two marks; after the pass's results were waited for."""
        between: Callable[[Any, Any], float] = (
            (lambda one, other: one.elapsed_time(other) / 1000)
            if self._on_gpu
            else (lambda one, other: other - one)
        )
        return [between(one, other) for one, other in itertools.pairwise(self._marks)]
