"""Which engine computes the vectors of a checkpoint.

On CPUs none is best for all: ONNX Runtime costs less for each call, PyTorch multiplies in bf16
(docs/export.md has what was measured). So where graphs lie ready, `auto` tries both.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

from lensemble.checkpoint import Checkpoint
from lensemble.encoder import synthetic_items
from lensemble.encoder.engine import Encoding
from lensemble.encoder.onnx.graph_files import Graphs
from lensemble.encoder.packing import Geometry
from lensemble.encoder.precision import agree
from lensemble.preprocess.features import Features
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError

logger = logging.getLogger(__name__)

MIN_GAIN = 1.1
"""How many times as fast as PyTorch ONNX Runtime must be: less is within what timing is worth."""

_ENOUGH_S = 2.0
"""Seconds of trials after which no other round is begun."""

_ROUNDS = (2, 6)
"""Rounds at least, and at most."""


def load(checkpoint: Checkpoint, settings: Settings, device: str = "cpu") -> Encoding:
    """The engine that the settings ask for, with its weights.

    Args:
        checkpoint: The serving checkpoint.
        settings: Engine, precision, threads, budgets.
        device: A torch device, such as `cpu` or `cuda:0`.

    Raises:
        InvalidInputError: The graphs are damaged or another checkpoint's, or ONNX Runtime is not
            installed.
    """
    if settings.engine == "onnx":
        return _onnx(checkpoint, settings, device)
    from lensemble.encoder.pytorch.torch_engine import Encoder

    encoder = Encoder.load(checkpoint, settings, device)
    if settings.engine == "torch" or encoder.device.type != "cpu":
        return encoder
    chosen = _faster(encoder, checkpoint, settings)
    del encoder
    chosen.rest()  # gives back what the other one held
    return chosen


def _onnx(checkpoint: Checkpoint, settings: Settings, device: str) -> Encoding:
    try:
        from lensemble.encoder.onnx.onnx_engine import OnnxEncoder
    except ImportError as error:
        raise InvalidInputError(
            f"{error}; LENSEMBLE_ENGINE=onnx needs `pip install 'lensemble[onnx]'`",
            field="LENSEMBLE_ENGINE",
        ) from None
    return OnnxEncoder(checkpoint, Graphs.open(settings.graphs, checkpoint), settings, device)


def _faster(encoder: Encoding, checkpoint: Checkpoint, settings: Settings) -> Encoding:
    """PyTorch's, or ONNX Runtime's if it gives the same vectors sooner."""
    if settings.onnx is None and not settings.graphs.is_dir():
        return encoder
    try:
        other = _onnx(checkpoint, settings, "cpu")
    except InvalidInputError as error:
        if settings.onnx is not None:  # somebody has asked for these graphs
            raise
        logger.warning("without ONNX Runtime: %s", error)
        return encoder
    if not agree(other.sound, encoder.sound, encoder.geometry, "ONNX Runtime against PyTorch"):
        return encoder
    ratio = gain(other, encoder)
    logger.info("ONNX Runtime is %.2f times as fast as PyTorch", ratio)
    return other if ratio >= MIN_GAIN else encoder


def gain(encoder: Encoding, base: Encoding) -> float:
    """How many times as fast as another an encoder is: alone and with much to do, alike in weight.

    Args:
        encoder: To be judged.
        base: The other one.

    Returns:
        The geometric mean of both ratios of seconds, of the fastest pass each.
    """
    ratios = []
    for items in _trials(encoder.geometry):
        least = [math.inf, math.inf]
        began = time.perf_counter()
        for turn in range(_ROUNDS[1]):
            if turn >= _ROUNDS[0] and time.perf_counter() - began > _ENOUGH_S:
                break
            for n, one in enumerate((encoder, base)):
                # The least of several: what disturbs only ever slows them down.
                least[n] = min(least[n], _seconds(one, items))
        ratios.append(least[1] / least[0])
    return math.prod(ratios) ** (1 / len(ratios))


def _trials(geometry: Geometry) -> tuple[list[Features], ...]:
    """A question alone, and what many callers send at a time."""
    question = synthetic_items.texts([12], geometry)
    picture = synthetic_items.picture(8 * geometry.merge_size, geometry)
    return question, [*synthetic_items.texts([16] * 12, geometry), *[picture] * 4]


def _seconds(encoder: Encoding, items: Sequence[Features]) -> float:
    began = time.perf_counter()
    encoder.sound(items)
    return time.perf_counter() - began
