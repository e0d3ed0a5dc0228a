"""Chooses the engine of a checkpoint: PyTorch or ONNX Runtime.

On CPUs neither is always faster: ONNX Runtime has less overhead per call, and PyTorch multiplies in
bf16 (docs/performance.md has the measurements). So where a checkpoint has exported graphs, the
setting `auto` times both.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.engine import Engine
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.onnx.graph_files import ExportedGraphs
from lensemble.encoder.precision import vectors_agree
from lensemble.encoder.synthetic_items import synthetic_picture, synthetic_texts
from lensemble.gpu import require_device
from lensemble.preprocess.features import Features
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError

logger = logging.getLogger(__name__)

# ONNX Runtime is chosen if its speed is at least this many times that of PyTorch; smaller gains are
# within timing noise.
MIN_GAIN = 1.1

# After this many seconds of trials, no further round begins.
_TRIAL_S = 2.0
_MIN_ROUNDS, _MAX_ROUNDS = 2, 6


def load_engine(checkpoint: Checkpoint, settings: Settings, device: str = "cpu") -> Engine:
    """Loads the engine that the settings ask for, with its weights.

    Args:
        checkpoint: the serving checkpoint.
        settings: engine, precision, threads and budgets.
        device: a torch device, such as `cpu` or `cuda:0`.

    Raises:
        InvalidInputError: PyTorch cannot compute on the device, the graphs are damaged or belong
            to another checkpoint, or ONNX Runtime is not installed.
    """
    if settings.engine == "onnx":
        return _load_onnx(checkpoint, settings, device)
    require_device(device)  # first, because large weights take a minute to read
    from lensemble.encoder.pytorch.load_torch_engine import load_torch_engine

    torch_engine = load_torch_engine(checkpoint, settings, device)
    if settings.engine == "torch" or torch_engine.device.type != "cpu":
        return torch_engine
    chosen = _faster_engine(torch_engine, checkpoint, settings)
    del torch_engine
    chosen.trim_memory()  # gives back what the other engine held
    return chosen


def _load_onnx(checkpoint: Checkpoint, settings: Settings, device: str) -> Engine:
    try:
        from lensemble.encoder.onnx.onnx_engine import OnnxEngine
    except ImportError as error:
        raise InvalidInputError(
            f"{error}; LENSEMBLE_ENGINE=onnx needs `pip install '.[onnx]'` in the checkout",
            field="LENSEMBLE_ENGINE",
        ) from None
    return OnnxEngine(
        checkpoint, ExportedGraphs.open(settings.graphs, checkpoint), settings, device
    )


def _faster_engine(torch_engine: Engine, checkpoint: Checkpoint, settings: Settings) -> Engine:
    """Returns ONNX Runtime's engine if it gives the same vectors faster, otherwise PyTorch's."""
    if settings.onnx is None and not settings.graphs.is_dir():
        return torch_engine
    try:
        onnx_engine = _load_onnx(checkpoint, settings, "cpu")
    except InvalidInputError as error:
        if settings.onnx is not None:  # these graphs were asked for
            raise
        logger.warning("ONNX Runtime is not used: %s", error)
        return torch_engine
    if not vectors_agree(
        onnx_engine.encode,
        torch_engine.encode,
        torch_engine.input_spec,
        "ONNX Runtime against PyTorch",
    ):
        return torch_engine
    ratio = speed_ratio(onnx_engine, torch_engine)
    logger.info("ONNX Runtime is %.2f times as fast as PyTorch", ratio)
    return onnx_engine if ratio >= MIN_GAIN else torch_engine


def speed_ratio(engine: Engine, base: Engine) -> float:
    """Measures the speed of one engine as a multiple of the speed of another.

    A single question and a full batch count equally.

    Args:
        engine: engine to judge.
        base: engine to compare with.

    Returns:
        The geometric mean of two ratios, one for the question and one for the batch. Each compares
        the fastest round of both engines.
    """
    ratios = []
    for items in _trial_batches(engine.input_spec):
        fastest = {engine: math.inf, base: math.inf}
        start = time.perf_counter()
        for round_number in range(_MAX_ROUNDS):
            if round_number >= _MIN_ROUNDS and time.perf_counter() - start > _TRIAL_S:
                break
            for candidate in fastest:
                # The minimum of several rounds, because disturbances only slow a round down.
                fastest[candidate] = min(fastest[candidate], _encode_seconds(candidate, items))
        ratios.append(fastest[base] / fastest[engine])
    return math.prod(ratios) ** (1 / len(ratios))


def _trial_batches(spec: InputSpec) -> tuple[list[Features], ...]:
    """Makes a single question, and a batch like one of many callers at the same time."""
    question = synthetic_texts([12], spec)
    picture = synthetic_picture(8 * spec.merge_size, spec)
    return question, [*synthetic_texts([16] * 12, spec), *[picture] * 4]


def _encode_seconds(engine: Engine, items: Sequence[Features]) -> float:
    start = time.perf_counter()
    engine.encode(items)
    return time.perf_counter() - start
