"""The engine on ONNX Runtime, with the graphs that `python -m lensemble_export onnx` wrote.

Packing, micro-batches and errors are the same as with PyTorch; only the towers differ.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.attention_table import group_by_length
from lensemble.encoder.engine import Engine, PassResult, micro_batch_budgets
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.onnx.graph_files import ExportedGraphs
from lensemble.encoder.onnx.graph_inputs import text_inputs, vision_inputs, visual_token_indices
from lensemble.encoder.packing import PackedBatch
from lensemble.preprocess.features import Features
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError

logger = logging.getLogger(__name__)

_CPU_PROVIDER = "CPUExecutionProvider"


class OnnxEngine(Engine):
    """Encodes features with ONNX Runtime.

    Args:
        checkpoint: the serving checkpoint from which the graphs were exported.
        graphs: the graphs.
        settings: threads and budgets.
        device: a torch device, such as `cpu` or `cuda:0`.

    Raises:
        InvalidInputError: ONNX Runtime cannot run the graphs on this device.
    """

    engine_name = "onnx"

    def __init__(
        self,
        checkpoint: Checkpoint,
        graphs: ExportedGraphs,
        settings: Settings,
        device: str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        batch_tokens, batch_patches = micro_batch_budgets(settings, self._device)
        super().__init__(
            checkpoint.profile,
            InputSpec.from_folder(checkpoint.folder),
            batch_tokens=batch_tokens,
            batch_patches=batch_patches,
        )
        self._precision = graphs.precision
        self._vision, self._text = (
            open_session(path, self._device, settings.cpu_threads)
            for path in (graphs.vision, graphs.text)
        )
        visual, deepstack = self._vision.get_outputs()
        self._no_visual = np.zeros((0, visual.shape[1]), np.float32)
        self._no_deepstack = np.zeros((deepstack.shape[0], 0, visual.shape[1]), np.float32)
        logger.info("%s by ONNX Runtime in %s", checkpoint.profile.name, self.precision)

    @property
    def device(self) -> torch.device:
        """See `Engine.device`."""
        return self._device

    @property
    def precision(self) -> str:
        """See `Engine.precision`."""
        return self._precision

    def run_pass(self, items: Sequence[Features]) -> PassResult:
        """See `Engine.run_pass`. Items of similar length share a call, because attention pads."""
        vectors = np.empty((len(items), self.profile.dimension), np.float32)
        tokens = patches = 0
        tower_seconds = [0.0, 0.0]
        for group in group_by_length([len(item.input_ids) for item in items]):
            packed = self.pack([items[n] for n in group])
            start = time.perf_counter()
            visual, deepstack = self._run_vision(packed)
            between = time.perf_counter()
            inputs = text_inputs(packed, self.profile, visual, deepstack)
            (vectors[group],) = self._text.run(None, inputs)
            tower_seconds[0] += between - start
            tower_seconds[1] += time.perf_counter() - between
            tokens += packed.input_ids.numel()
            patches += len(packed.patches)
        return PassResult(vectors, tokens, patches, tower_seconds)

    def _run_vision(self, packed: PackedBatch) -> tuple[NDArray[Any], NDArray[Any]]:
        """Computes the visual embeddings and DeepStack features of all pictures."""
        if not len(packed.patches):
            return self._no_visual, self._no_deepstack
        count = len(packed.visual_positions)
        visual = np.empty((count, *self._no_visual.shape[1:]), np.float32)
        deepstack = np.empty((len(self._no_deepstack), *visual.shape), np.float32)
        for group in group_by_length(packed.vision_cu_seqlens.diff().tolist()):
            rows = visual_token_indices(packed, group, self.input_spec.merge_size)
            inputs = vision_inputs(packed, group)
            visual[rows], deepstack[:, rows] = self._vision.run(None, inputs)
        return visual, deepstack


def open_session(path: Path, device: torch.device, threads: int) -> onnxruntime.InferenceSession:
    """Loads a graph for running it.

    Args:
        path: path of the `.onnx` file.
        device: device to run it on.
        threads: number of CPU threads.

    Raises:
        InvalidInputError: The installed ONNX Runtime does not support the device, or cannot run
            the graph on it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from preprocessing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = choose_providers(device, path.parent, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no other base class
        raise InvalidInputError(
            f"ONNX Runtime cannot run {str(path)!r} on {device}: {str(error).splitlines()[0]}",
            field="onnx",
        ) from None
    if device.type != "cpu" and session.get_providers() == [_CPU_PROVIDER]:
        # ONNX Runtime only logs this, and goes on without the GPU.
        raise InvalidInputError(
            f"ONNX Runtime runs {path.name!r} on the CPU; expected {device}: a library of CUDA or "
            "cuDNN does not load, and the log names it; install it, or set LENSEMBLE_ENGINE=torch "
            "or LENSEMBLE_DEVICE=cpu",
            field="LENSEMBLE_ENGINE",
        )
    return session


def choose_providers(
    device: torch.device, folder: Path, available: Sequence[str]
) -> list[tuple[str, dict[str, str]]]:
    """Returns the execution providers for a device with their options, the fastest first.

    Args:
        device: device to run on.
        folder: folder of the graphs. TensorRT keeps its engines there, because building them takes
            minutes.
        available: names of the providers of the installed ONNX Runtime.

    Raises:
        InvalidInputError: The device is a GPU, and no available provider supports it.
    """
    cpu: list[tuple[str, dict[str, str]]] = [(_CPU_PROVIDER, {})]
    if device.type == "cpu":
        return cpu
    number = str(device.index or 0)
    gpu_providers = {
        "TensorrtExecutionProvider": {
            "device_id": number,
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder / "tensorrt"),
            "trt_timing_cache_enable": "1",
            # The vectors must equal the reference's, so only the graph's own precision is used.
            "trt_fp16_enable": "0",
        },
        # Sizes change with every call; the default strategy would double the arena each time.
        "CUDAExecutionProvider": {"device_id": number, "arena_extend_strategy": "kSameAsRequested"},
    }
    chosen = [(name, options) for name, options in gpu_providers.items() if name in available]
    if not chosen:
        raise InvalidInputError(
            f"ONNX Runtime has {', '.join(available)}; expected one of {', '.join(gpu_providers)} "
            f"for {device}: install onnxruntime-gpu, or set LENSEMBLE_DEVICE=cpu",
            field="LENSEMBLE_ENGINE",
        )
    return chosen + cpu
