"""Ways to run the encoder that the product does not take, or leaves to a trial at start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from lensemble.encoder.packing import PackedBatch
from lensemble.encoder.pytorch import varlen_kernels
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.encoder.pytorch.upload import Uploader
from lensemble.encoder.pytorch.varlen_kernels import Kernel, attention_shapes


@contextmanager
def attention_by(encoder: TorchEngine, kernel: Kernel) -> Iterator[None]:
    """Both towers use one kernel of attention; afterwards the chosen ones again.

    Args:
        encoder: The encoder.
        kernel: The kernel, one of `varlen_kernels`.
    """
    # Not `choose_kernels`, which takes a slow one in place of a kernel that fails its trial.
    forced = dict.fromkeys(attention_shapes(encoder.model.config), kernel)
    with patch.dict(varlen_kernels._chosen, forced):
        yield


@contextmanager
def compiled(layer: type[torch.nn.Module], backend: str = "inductor") -> Iterator[None]:
    """The layers of one class are compiled, with dynamic shapes.

    The class's function is compiled and not each layer, so all layers share the compiled code.

    Args:
        layer: `TextLayer` or `VisionBlock`.
        backend: PyTorch's name of the compiler; `eager` only traces.
    """
    torch.compiler.reset()
    forward = torch.compile(layer.forward, dynamic=True, backend=backend)
    with patch.object(layer, "forward", forward):
        yield


def pass_of(encoder: TorchEngine, packed: PackedBatch) -> Callable[[], torch.Tensor]:
    """Returns the function that runs one pass as the server does, from the CPU's memory."""
    return lambda: encoder.forward(packed)


def graph_of(encoder: TorchEngine, packed: PackedBatch) -> Callable[[], torch.Tensor]:
    """Returns the function that replays a pass as a CUDA graph; on a CPU it runs the pass.

    Args:
        encoder: The encoder.
        packed: The batch of the pass; no upload is part of the graph.
    """
    if encoder.device.type != "cuda":
        return lambda: _pass_on_device(encoder, packed)
    batch = Uploader(encoder.device)(packed)
    graph, vectors = _capture(encoder, batch)

    def replay() -> torch.Tensor:
        graph.replay()
        return vectors

    return replay


def _capture(encoder: TorchEngine, batch: PackedBatch) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    current = torch.cuda.current_stream()
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(3):  # every kernel has run before it is captured
            _pass_on_device(encoder, batch)
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        vectors = _pass_on_device(encoder, batch)
    return graph, vectors


@torch.inference_mode()
def _pass_on_device(encoder: TorchEngine, batch: PackedBatch) -> torch.Tensor:
    return encoder.forward_on_device(batch)
