"""Ways to run the encoder that the product does not take, or leaves to a trial at start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from lensemble.encoder.pytorch.attention import varlen_kernels
from lensemble.encoder.pytorch.attention.varlen_kernels import Kernel, attention_shapes
from lensemble.encoder.pytorch.torch_engine import TorchEngine


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
