"""Features -> unit vectors by ONNX Runtime: the graphs that `python -m lensemble_export onnx` made.

The same packing, micro-batches and errors as with PyTorch; only the towers are computed elsewhere.
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
from lensemble.encoder import packing
from lensemble.encoder.attention_graph import alike
from lensemble.encoder.engine import BUDGETS, Encoding, Pass
from lensemble.encoder.onnx import graph_files, graph_inputs
from lensemble.preprocess.features import Features
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError

logger = logging.getLogger(__name__)


class OnnxEncoder(Encoding):
    """Encodes features with ONNX Runtime.

    Args:
        checkpoint: The serving checkpoint that the graphs were made of.
        made: The graphs.
        settings: Threads and budgets.
        device: A torch device, such as `cpu` or `cuda:0`.

    Raises:
        InvalidInputError: The graphs are damaged, or another checkpoint's.
    """

    engine = "onnx"

    def __init__(
        self,
        checkpoint: Checkpoint,
        made: graph_files.Graphs,
        settings: Settings,
        device: str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        tokens, patches = BUDGETS[self._device.type]
        super().__init__(
            checkpoint.profile,
            packing.Geometry.open(checkpoint.folder),
            batch_tokens=settings.batch_tokens or tokens,
            batch_patches=settings.batch_patches or patches,
        )
        self._precision = made.precision
        self._vision, self._text = (
            session(path, self._device, settings.cpu_threads) for path in (made.vision, made.text)
        )
        visual, deepstack = self._vision.get_outputs()
        self._no_visual = np.zeros((0, visual.shape[1]), np.float32)
        self._no_deepstack = np.zeros((deepstack.shape[0], 0, visual.shape[1]), np.float32)
        logger.info("%s by ONNX Runtime in %s", checkpoint.profile.name, self.precision)

    @property
    def device(self) -> torch.device:
        """See `Encoding.device`."""
        return self._device

    @property
    def precision(self) -> str:
        """See `Encoding.precision`."""
        return self._precision

    def compute(self, items: list[Features]) -> Pass:
        """See `Encoding.compute`: items of like length together, as attention is filled up."""
        vectors = np.empty((len(items), self.profile.dimension), np.float32)
        tokens = patches = 0
        towers_s = [0.0, 0.0]
        for group in alike([len(item.input_ids) for item in items]):
            packed = self.pack([items[n] for n in group])
            began = time.perf_counter()
            seen = self._see(packed)
            between = time.perf_counter()
            feeds = graph_inputs.of_text(packed, self.profile, *seen)
            (vectors[group],) = self._text.run(None, feeds)
            towers_s[0] += between - began
            towers_s[1] += time.perf_counter() - between
            tokens += packed.input_ids.numel()
            patches += len(packed.patches)
        return Pass(vectors, tokens, patches, towers_s)

    def _see(self, packed: packing.Packed) -> tuple[NDArray[Any], NDArray[Any]]:
        """Visual embeddings and DeepStack features of all pictures."""
        if not len(packed.patches):
            return self._no_visual, self._no_deepstack
        count = len(packed.visual_positions)
        visual = np.empty((count, *self._no_visual.shape[1:]), np.float32)
        deepstack = np.empty((len(self._no_deepstack), *visual.shape), np.float32)
        for group in alike(packed.vision_cu_seqlens.diff().tolist()):
            rows = graph_inputs.visual_rows(packed, group, self.geometry.merge_size)
            feeds = graph_inputs.of_vision(packed, group)
            visual[rows], deepstack[:, rows] = self._vision.run(None, feeds)
        return visual, deepstack


def session(path: Path, device: torch.device, threads: int) -> onnxruntime.InferenceSession:
    """A graph, ready to run.

    Args:
        path: Of the `.onnx` file.
        device: Where to run it.
        threads: CPU threads.

    Raises:
        InvalidInputError: The installed ONNX Runtime has nothing for that device, or cannot run the
            graph there.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait by spinning take the cores from preprocessing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    there = onnxruntime.get_available_providers()
    wanted = providers(device, path.parent, there)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # its classes have only Exception in common
        raise InvalidInputError(
            f"ONNX Runtime cannot run {str(path)!r} on {device}: {str(error).splitlines()[0]}",
            field="onnx",
        ) from None


def providers(
    device: torch.device, folder: Path, there: Sequence[str]
) -> list[tuple[str, dict[str, str]]]:
    """Who computes, best first: TensorRT where it is installed, CUDA, the CPU.

    Args:
        device: Where to run.
        folder: Of the graphs; TensorRT keeps its engines in it, which take minutes to build.
        there: Of the installed ONNX Runtime.

    Raises:
        InvalidInputError: There is none for a GPU.
    """
    cpu: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
    if device.type == "cpu":
        return cpu
    number = str(device.index or 0)
    wanted = {
        "TensorrtExecutionProvider": {
            "device_id": number,
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder / "tensorrt"),
            "trt_timing_cache_enable": "1",
            # Vectors that must equal the reference's: no precision but that of the graph.
            "trt_fp16_enable": "0",
        },
        # As in PyTorch: sizes change with every call, and the arena must not double for each.
        "CUDAExecutionProvider": {"device_id": number, "arena_extend_strategy": "kSameAsRequested"},
    }
    found = [(name, options) for name, options in wanted.items() if name in there]
    if not found:
        raise InvalidInputError(
            f"ONNX Runtime has {', '.join(there)}; expected one of {', '.join(wanted)} for "
            f"{device}: install onnxruntime-gpu, or set LENSEMBLE_DEVICE=cpu",
            field="LENSEMBLE_ENGINE",
        )
    return found + cpu
