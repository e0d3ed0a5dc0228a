"""Attention kernels of CUDA that take all segments of a row in one call ("varlen").

PyTorch offers more than one way to the same attention, and what they accept depends on its version:

- `aten._flash_attention_forward`, FlashAttention 2. It takes grouped heads as they are.
- `torch.nn.attention.varlen.varlen_attn`. Up to PyTorch 2.12 it wants keys and values with all
  heads, so grouped heads are copied. From 2.13 on it takes grouped heads. It fills a tensor with
  zeros in every call. On cards of the Hopper generation, PyTorch 2.14 hands calls that are neither
  causal nor grouped to cuDNN, which prepares a plan for every new combination of total length,
  number of segments and longest segment: on the CPU, in the middle of a pass, and for ever in
  memory. Pictures come in ever new combinations, so for such calls `varlen_attn` is only the
  second choice, on every card.

`choose_kernels` compares them on the device when the model is loaded, and takes the fastest of the
first choice whose results are right. None of this has run on a GPU yet (docs/performance.md).
"""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lensemble.encoder.pytorch.attention.attention_cpu import attend_per_segment

logger = logging.getLogger(__name__)

# q (L, heads, head_dim), k and v (L, key heads, head_dim), all of one of `DTYPES` and on one
# device; boundaries (S + 1,) int32, the first token of each segment, and the end of the last one;
# length of the longest segment; factor on the scores, None is 1 / sqrt(head_dim); causal -> (L,
# heads, head_dim). Rows outside of all segments are left as they are.
Kernel = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, float | None, bool], torch.Tensor
]

# Both kernels multiply in these only.
DTYPES = (torch.bfloat16, torch.float16)

# The trial: lengths of its segments, and the number of timed calls.
_TRIAL_LENGTHS = (1, 37, 600, 250, 1024)
_TRIAL_CALLS = 20
# Results are bf16, whose rounding error is 2^-8 of a value. The largest expected value is about 4.5
# (a segment of one token is its own value), and 4.5 / 2^8 = 0.018.
_MAX_DIFFERENCE = 0.02


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What attention layers of one tower have in common.

    Attributes:
        heads: number of query heads.
        key_heads: number of heads of keys and values; it divides `heads`.
        head_dim: length of a head's vectors.
        causal: whether a token sees only itself and what precedes it.
    """

    heads: int
    key_heads: int
    head_dim: int
    causal: bool


def attention_shapes(config: Any) -> tuple[AttentionShape, AttentionShape]:
    """Returns the shapes of the attention in the vision tower and in the text tower.

    Args:
        config: a `Qwen3VLConfig`.
    """
    vision, text = config.vision_config, config.text_config
    return (
        AttentionShape(
            vision.num_heads, vision.num_heads, vision.hidden_size // vision.num_heads, causal=False
        ),
        AttentionShape(
            text.num_attention_heads, text.num_key_value_heads, text.head_dim, causal=True
        ),
    )


def flash_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: torch.Tensor,
    max_length: int,
    scale: float | None,
    causal: bool,
) -> torch.Tensor:
    """Calls FlashAttention 2 directly; see `Kernel`."""
    aten: Any = torch.ops.aten
    out: torch.Tensor = aten._flash_attention_forward(
        q,
        k,
        v,
        boundaries,
        boundaries,
        max_length,
        max_length,
        0.0,  # no dropout
        causal,
        False,  # no debug mask
        scale=scale,
    )[0]
    return out


def varlen_attn(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: torch.Tensor,
    max_length: int,
    scale: float | None,
    causal: bool,
) -> torch.Tensor:
    """Calls PyTorch's `varlen_attn` the way that its version wants; see `Kernel`."""
    from torch.nn.attention import varlen

    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0) if causal else (-1, -1)}
    if q.shape[1] != k.shape[1]:
        if _takes_grouped_heads(varlen.varlen_attn):
            options["enable_gqa"] = True
        else:
            k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for each in (k, v))
    out: Any = varlen.varlen_attn(
        q, k, v, boundaries, boundaries, max_length, max_length, **options
    )
    attended: torch.Tensor = out
    return attended


def attend_with_sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: torch.Tensor,
    max_length: int,
    scale: float | None,
    causal: bool,
) -> torch.Tensor:
    """Attends segment by segment; see `Kernel`. On GPUs the CPU waits in every layer."""
    query, key, value = (each.transpose(0, 1)[None] for each in (q, k, v))
    return attend_per_segment(query, key, value, boundaries, scale, causal)[0]


@functools.cache  # reading a signature takes 52 us, and a pass calls attention in every layer
def _takes_grouped_heads(function: Callable[..., Any]) -> bool:
    return "enable_gqa" in inspect.signature(function).parameters


def kernels_to_try(shape: AttentionShape) -> Sequence[Sequence[Kernel]]:
    """Returns groups of kernels; a group is tried if no kernel of the groups before is right."""
    if not shape.causal and shape.heads == shape.key_heads:
        return (flash_forward,), (varlen_attn,)
    return ((flash_forward, varlen_attn),)


_chosen: dict[AttentionShape, Kernel] = {}


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: torch.Tensor,
    max_length: int,
    scale: float | None,
    causal: bool,
) -> torch.Tensor:
    """See `Kernel`; calls the chosen kernel, or `varlen_attn` before any choice."""
    shape = AttentionShape(q.shape[1], k.shape[1], q.shape[2], causal)
    kernel = _chosen.get(shape, varlen_attn)
    return kernel(q, k, v, boundaries, max_length, scale, causal)


def waits_for_no_result(shape: AttentionShape, dtype: torch.dtype) -> bool:
    """Whether attention of this shape runs on a GPU without making the CPU wait."""
    return dtype in DTYPES and _chosen.get(shape) is not attend_with_sdpa


def choose_kernels(
    shapes: Iterable[AttentionShape],
    device: torch.device,
    dtype: torch.dtype,
    *,
    kernels: Sequence[Kernel] | None = None,
) -> None:
    """Tries kernels on the device, and chooses one for each shape.

    It is the fastest right one of the first group of `kernels_to_try` that has one.

    Args:
        shapes: the shapes of the model's attention layers.
        device: device of the weights.
        dtype: precision of the weights; nothing is chosen if it is not one of `DTYPES`.
        kernels: the kernels to try; None takes those of `kernels_to_try`. If none of them is right,
            `attend_with_sdpa` is chosen, and the log says why; cards before the Ampere generation,
            for example, have none.
    """
    if dtype not in DTYPES:
        return
    for shape in shapes:
        seconds: dict[Kernel, float] = {}
        causes = []
        for group in kernels_to_try(shape) if kernels is None else [kernels]:
            for kernel in group:
                try:
                    seconds[kernel] = _try(kernel, shape, device, dtype)
                except Exception as error:
                    causes.append(f"{_name(kernel)}: {type(error).__name__}: {error}")
            if seconds:
                break
        if not seconds:
            _chosen[shape] = attend_with_sdpa
            logger.warning(
                "attention is slow, because no kernel for whole rows computes %s in %s: %s",
                shape,
                dtype,
                "; ".join(causes),
            )
            continue
        _chosen[shape] = min(seconds, key=seconds.__getitem__)
        logger.info(
            "%s: %s is used (%s)%s",
            shape,
            _name(_chosen[shape]),
            ", ".join(f"{_name(each)} {s * 1e6:.0f} us" for each, s in seconds.items()),
            "".join(f"; not used: {cause}" for cause in causes),
        )


def _try(kernel: Kernel, shape: AttentionShape, device: torch.device, dtype: torch.dtype) -> float:
    """Compares a kernel's result with a dense computation in fp32; returns the seconds of a call.

    Raises:
        ValueError: The result is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    total = sum(_TRIAL_LENGTHS)
    parts = [shape.heads, shape.key_heads, shape.key_heads]
    # Views of one buffer, as in the layers: a kernel must take their strides.
    q, k, v = (
        torch.randn(total, sum(parts), shape.head_dim, generator=generator)
        .to(device, dtype)
        .split(parts, dim=1)  # type: ignore[no-untyped-call]
    )
    boundaries = torch.tensor([0, *_TRIAL_LENGTHS]).cumsum(0).int()
    arguments = (q, k, v, boundaries.to(device), max(_TRIAL_LENGTHS), None, shape.causal)
    result = kernel(*arguments)
    expected = attend_with_sdpa(
        q.cpu().float(),
        k.cpu().float(),
        v.cpu().float(),
        boundaries,
        max(_TRIAL_LENGTHS),
        None,
        shape.causal,
    )
    difference = float((result.cpu().float() - expected).abs().max())
    if not difference <= _MAX_DIFFERENCE:  # also if it is NaN
        raise ValueError(f"its result differs by {difference:.3g}; expected {_MAX_DIFFERENCE:g}")
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(_TRIAL_CALLS):
        kernel(*arguments)
    _wait_for(device)
    return (time.perf_counter() - start) / _TRIAL_CALLS


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(kernel: Kernel) -> str:
    return getattr(kernel, "__name__", repr(kernel))
