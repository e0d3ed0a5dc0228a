"""Ways to run the same encoder with fewer or cheaper kernels; each is a context or a function.

What the product takes over becomes a setting or its default, and then leaves this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.gpu.measuring.attention_trials import flash_forward
from lensemble.encoder.packing import PackedBatch
from lensemble.encoder.pooling import normalize, pool
from lensemble.encoder.pytorch import fused_layers
from lensemble.encoder.pytorch.attention import packed_attention
from lensemble.encoder.pytorch.torch_engine import TorchEngine


def _direct_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Replaces `packed_attention` by the operation below PyTorch's `varlen_attn`."""
    if not query.is_cuda:  # a rehearsal on a CPU, which has no such operation
        return packed_attention(module, query, key, value, attention_mask, **options)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    causal = bool(getattr(module, "is_causal", False))
    boundaries, longest = options["cu_seq_lens_q"], options["max_length_q"]
    out = flash_forward(q, k, v, boundaries, longest, options.get("scaling"), causal)
    return out[None], None


@contextmanager
def direct_attention() -> Iterator[None]:
    """Both towers call `aten::_flash_attention_forward` directly."""
    with patch.object(fused_layers, "packed_attention", _direct_attention):
        yield


@contextmanager
def compiled(layer: type[torch.nn.Module], backend: str = "inductor") -> Iterator[None]:
    """The layers of one class are compiled, with dynamic shapes.

    The class's function is compiled and not each layer, so all layers share the compiled code.

    Args:
        layer: The class, one of `fused_layers`.
        backend: PyTorch's name of the compiler; `eager` only traces.
    """
    torch.compiler.reset()
    forward = torch.compile(layer.forward, dynamic=True, backend=backend)
    with patch.object(layer, "forward", forward):
        yield


class CapturedTexts:
    """A pass over texts of one packed shape as a CUDA graph.

    Args:
        encoder: The encoder.
        packed: A batch of texts with the shape; replays compute these texts.
    """

    def __init__(self, encoder: TorchEngine, packed: PackedBatch) -> None:
        batch = packed.to(encoder.device)
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(3):  # every kernel has run before it is captured
                text_pass(encoder, batch)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._vectors = text_pass(encoder, batch)

    def replay(self) -> torch.Tensor:
        """Runs the pass again and returns its vectors, (S, D) float32, on the device."""
        self._graph.replay()
        return self._vectors


@torch.inference_mode()
def text_pass(encoder: TorchEngine, batch: PackedBatch) -> torch.Tensor:
    """Runs the text tower on a batch that is on the device; no upload is part of it.

    Args:
        encoder: The encoder.
        batch: Texts, on the encoder's device.

    Returns:
        (S, D) float32, unit length.
    """
    tower = encoder.model.language_model
    out = tower(
        inputs_embeds=tower.embed_tokens(batch.input_ids),
        # Rows 1 to 3: with all four, Transformers waits for the device.
        position_ids=batch.position_ids[-3:],
        attention_mask=None,
        use_cache=False,
        cu_seq_lens_q=batch.cu_seqlens,
        cu_seq_lens_k=batch.cu_seqlens,
        max_length_q=batch.max_seqlen,
        max_length_k=batch.max_seqlen,
    )
    hidden = out.last_hidden_state[0]
    return normalize(pool(hidden, batch.cu_seqlens, encoder.profile.pooling))


def pass_of(encoder: TorchEngine, packed: PackedBatch) -> Callable[[], torch.Tensor]:
    """Returns the function that runs one pass as the server does, from the CPU's memory."""
    return lambda: encoder.forward(packed)


def graph_of(encoder: TorchEngine, packed: PackedBatch) -> Callable[[], torch.Tensor]:
    """Returns the function that replays the pass as a CUDA graph; on a CPU it runs the pass."""
    if encoder.device.type != "cuda":
        batch = packed.to(encoder.device)
        return lambda: text_pass(encoder, batch)
    return CapturedTexts(encoder, packed).replay
