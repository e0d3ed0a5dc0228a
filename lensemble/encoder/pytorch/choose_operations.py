"""Decides for each tower whether it uses the GPU kernels.

A kernel must agree with PyTorch on this device (`probe`), and the vectors of whole passes must
agree as well. With the setting `auto`, whole passes are timed too, because what kernels save
depends on the GPU, the CPU that starts them, and the model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.precision import MIN_COSINE
from lensemble.encoder.pytorch.fused_layers import use_operations
from lensemble.encoder.pytorch.kernels.layer_operations import LayerOperations
from lensemble.encoder.pytorch.kernels.probe import probe, text_calls, vision_calls
from lensemble.encoder.synthetic_items import synthetic_mix, synthetic_picture, synthetic_texts
from lensemble.preprocess.features import Features

logger = logging.getLogger(__name__)

# With the setting `auto`, a tower uses the kernels if whole passes are at least this many times as
# fast as without them; less is within the noise of the trial.
MIN_GAIN = 1.01

_ROUNDS = 7
_TEXTS, _TEXT_TOKENS = 64, 32
_PICTURES, _PICTURE_PATCHES = 8, 28  # 448 pixels a side

# Runs one pass over items and returns their vectors, (S, D) float32.
RunPass = Callable[[Sequence[Features]], torch.Tensor]


def choose_operations(model: Any, setting: str, run_pass: RunPass, spec: InputSpec) -> None:
    """Sets the operations of both towers of a model with fused layers.

    Args:
        model: the model on its GPU.
        setting: `auto`, `on` or `off`. `on` times nothing.
        run_pass: runs one pass of this model.
        spec: input specification of the model.
    """
    if setting == "off":
        return
    operations = _gpu_operations()
    if operations is None:
        return
    texts = synthetic_texts([_TEXT_TOKENS] * _TEXTS, spec)
    pictures = [synthetic_picture(_PICTURE_PATCHES, spec)] * _PICTURES
    text, vision = model.language_model, model.visual
    towers = (
        ("text", text, text_calls, text.layers[0], texts),
        ("vision", vision, vision_calls, vision.blocks[0], pictures),
    )
    for name, tower, make_calls, layer, items in towers:
        try:
            calls = make_calls(layer)
        except ValueError as error:
            logger.warning("%s tower: no GPU kernels: %s", name, error)
            continue
        working = probe(name, operations, calls)
        if working is None:
            continue
        if not _passes_agree(name, tower, working, run_pass, spec):
            continue
        if setting == "on" or _is_faster(name, tower, working, run_pass, items):
            use_operations(tower, working)


def _gpu_operations() -> LayerOperations | None:
    """The kernels; None, with a line of log, without the package that compiles them."""
    try:
        from lensemble.encoder.pytorch.kernels.gpu_operations import gpu_operations
        from lensemble.encoder.pytorch.kernels.launcher import Launcher
    except ImportError as error:
        logger.warning("no GPU kernels: the package triton cannot be imported: %s", error)
        return None
    return gpu_operations(Launcher())


def _passes_agree(
    name: str, tower: Any, operations: LayerOperations, run_pass: RunPass, spec: InputSpec
) -> bool:
    """Compares vectors with and without the operations; the tower is left without them."""
    items = synthetic_mix(spec)
    expected = run_pass(items).cpu()
    use_operations(tower, operations)
    try:
        cosines = (run_pass(items).cpu() * expected).sum(dim=1)
    except Exception as error:  # such as an attention kernel that refuses views of one buffer
        logger.warning("%s tower: no GPU kernels: a pass with them fails: %s", name, error)
        return False
    finally:
        use_operations(tower, None)
    lowest = float(cosines.min())
    if lowest >= MIN_COSINE:  # not true for NaN
        logger.info("%s tower: GPU kernels against PyTorch: cosine at least %.6f", name, lowest)
        return True
    logger.warning("%s tower: no GPU kernels: cosine to PyTorch is %.6f", name, lowest)
    return False


def _is_faster(
    name: str,
    tower: Any,
    operations: LayerOperations,
    run_pass: RunPass,
    items: Sequence[Features],
) -> bool:
    """Times passes with and without the operations by turns; the tower is left without them."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    try:
        for _ in range(_ROUNDS):
            for used in seconds:
                use_operations(tower, operations if used else None)
                seconds[used].append(_seconds(run_pass, items))
    except Exception as error:  # such as a GPU with little free memory, for which budgets shrink
        logger.warning("%s tower: no GPU kernels: a timed pass fails: %s", name, error)
        return False
    finally:
        use_operations(tower, None)
    # The minimum, because disturbances only slow a pass down; it leaves out the first passes, too.
    own, kernels = min(seconds[False]), min(seconds[True])
    used = own >= MIN_GAIN * kernels
    logger.info(
        "%s tower: a pass takes %.2f ms with PyTorch's operations and %.2f ms with GPU kernels, "
        "which are %sused",
        name,
        own * 1e3,
        kernels * 1e3,
        "" if used else "not ",
    )
    return used


def _seconds(run_pass: RunPass, items: Sequence[Features]) -> float:
    start = time.perf_counter()
    run_pass(items).cpu()  # waits for the GPU
    return time.perf_counter() - start
