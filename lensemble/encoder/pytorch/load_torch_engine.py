"""Loads weights into an engine on PyTorch, in the fastest precision that gives right vectors."""

from __future__ import annotations

import logging

import torch
from transformers import Qwen3VLModel

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.engine import micro_batch_budgets
from lensemble.encoder.freed_memory import keep_freed_memory
from lensemble.encoder.packing import pack
from lensemble.encoder.precision import precisions_to_try, vectors_agree
from lensemble.encoder.pytorch.attention.varlen_kernels import (
    attention_shapes,
    choose_kernels,
    waits_for_no_result,
)
from lensemble.encoder.pytorch.choose_operations import choose_operations
from lensemble.encoder.pytorch.fused_layers import fuse_layers
from lensemble.encoder.pytorch.gpu_engine import GpuEngine
from lensemble.encoder.pytorch.onednn_linear import reorder_weights
from lensemble.encoder.pytorch.thread_count import measure_thread_count
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.settings import Settings

logger = logging.getLogger(__name__)


def load_torch_engine(
    checkpoint: Checkpoint,
    settings: Settings,
    device: str = "cpu",
    *,
    fused: bool = True,
) -> TorchEngine:
    """Loads the weights onto a device.

    On CPUs, memory that this process frees is then kept for later passes (`freed_memory`).

    Args:
        checkpoint: the serving checkpoint.
        settings: precision, threads and budgets.
        device: a torch device, such as `cpu` or `cuda:0`.
        fused: whether to replace the layers by the fused ones (`fused_layers`), which are for
            serving only. Training needs Transformers' own layers, which have gradients and the
            parameter names of the checkpoint.

    Returns:
        A `GpuEngine` if the device is a GPU.

    Raises:
        ValueError: `fused` is set and the layers are not those of a Qwen3-VL.
    """
    target = torch.device(device)
    if target.type == "cpu":
        keep_freed_memory()
    fastest, *others = precisions_to_try(settings.dtype, target)
    engine = load_in_precision(checkpoint, settings, target, fastest, fused=fused)
    if others:
        trusted = load_in_precision(checkpoint, settings, target, others[-1], fused=fused)
        if not vectors_agree(engine.encode, trusted.encode, engine.input_spec, "bf16 against fp32"):
            engine = trusted
    if fused and isinstance(engine, GpuEngine):
        choose_operations(
            engine.model,
            settings.gpu_kernels,
            lambda items: engine.forward(pack(items, engine.input_spec)),
            engine.input_spec,
        )
    if target.type == "cpu":
        engine.thread_count = measure_thread_count(engine.run_timed_texts, settings.cpu_threads)
    logger.info("%s on %s in %s", checkpoint.profile.name, target, engine.dtype)
    return engine


def load_for_export(checkpoint: Checkpoint, dtype: torch.dtype) -> TorchEngine:
    """Loads the model with fused layers onto the CPU, with weights in their normal layout.

    Args:
        checkpoint: the serving checkpoint.
        dtype: precision of the weights.
    """
    return TorchEngine(_load_model(checkpoint, dtype, fused=True), checkpoint)


def load_in_precision(
    checkpoint: Checkpoint,
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
    *,
    fused: bool,
) -> TorchEngine:
    """Loads the weights in one precision, without trials of other precisions or thread counts.

    Args:
        checkpoint: the serving checkpoint.
        settings: budgets, and whether to record CUDA graphs.
        device: device of the weights.
        dtype: precision of the weights.
        fused: as for `load_torch_engine`.
    """
    model = _load_model(checkpoint, dtype, fused=fused)
    batch_tokens, batch_patches = micro_batch_budgets(settings, device)
    engine_class = GpuEngine if device.type == "cuda" else TorchEngine
    engine = engine_class(
        model.to(device), checkpoint, batch_tokens=batch_tokens, batch_patches=batch_patches
    )
    reorder_weights(engine.model)
    if isinstance(engine, GpuEngine):
        vision, text = attention_shapes(engine.model.config)
        choose_kernels((vision, text), device, dtype)
        engine.records_text_graphs = (
            fused and settings.gpu_graphs == "auto" and waits_for_no_result(text, dtype)
        )
    return engine


def _load_model(checkpoint: Checkpoint, dtype: torch.dtype, *, fused: bool) -> Qwen3VLModel:
    model = Qwen3VLModel.from_pretrained(  # nosec B615
        checkpoint.folder, dtype=dtype, use_safetensors=True, local_files_only=True
    )
    if fused:
        fuse_layers(model)
    return model
