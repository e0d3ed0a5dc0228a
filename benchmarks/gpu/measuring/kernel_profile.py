"""Which kernels a pass runs, and how much of its time each kind of kernel takes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

PASSES = 3
_LONGEST_NAME = 90
_TOP = 25

# Kind -> what the names of its kernels contain; the first that matches counts. Attention comes
# before the matrix products, because its kernels are also made from CUTLASS.
_KINDS = {
    "attention": r"flash|fmha|attention|sdpa",
    "matrix product": r"gemm|cutlass|cublas|nvjet|xmma|wgmma|aten::(add)?mm|linear",
    "normalization": r"norm|_rms",
    "copy": r"memcpy|memset|copy|catarray|index_select|gather|scatter|fill",
    "elementwise": r"elementwise|vectorized|unrolled|gelu|silu|swiglu|mul|add|roll|rotary|_poi",
    "reduction": r"reduce|_red_|_per_",
}


def kind_of(kernel: str) -> str:
    """Returns the kind of a kernel; `other` if its name says nothing.

    Args:
        kernel: Name of the kernel.
    """
    name = kernel.lower()
    return next((kind for kind, part in _KINDS.items() if re.search(part, name)), "other")


def summarize(kernels: dict[str, tuple[int, float]], pass_s: float) -> dict[str, Any]:
    """Returns the figures of one pass.

    Args:
        kernels: Name -> number of calls and microseconds, for one pass.
        pass_s: Seconds of one pass without the profiler.

    Returns:
        `kernels` (number in a pass), `device_ms`, `busy` (the part of the pass in which the device
        works; well below 1 the pass waits for the CPU's launches), and `shares` (kind -> part of
        the device's time).
    """
    device_us = sum(us for _, us in kernels.values())
    shares: dict[str, float] = defaultdict(float)
    for name, (_, us) in kernels.items():
        shares[kind_of(name)] += us / device_us if device_us else 0.0
    return {
        "kernels": sum(count for count, _ in kernels.values()),
        "device_ms": round(device_us / 1e3, 3),
        "busy": round(device_us / 1e6 / pass_s, 3),
        "shares": {kind: round(share, 3) for kind, share in sorted(shares.items())},
    }


def profile_passes(
    run: Callable[[], object], device: torch.device, pass_s: float
) -> tuple[str, dict[str, Any]]:
    """Profiles some passes. On a CPU, PyTorch's operations stand for kernels.

    Args:
        run: Runs one pass.
        device: The device that is profiled.
        pass_s: Seconds of one pass without the profiler.

    Returns:
        A table of the kernels that take most of the time, and the figures of `summarize`.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    run()
    with profile(activities=activities) as recorded:
        for _ in range(PASSES):
            run()
        if on_gpu:
            torch.cuda.synchronize()
    kernels = {}
    for event in recorded.key_averages():
        is_kernel = event.device_type.name == "CUDA"
        if is_kernel == on_gpu:
            us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            kernels[event.key] = (event.count // PASSES, us / PASSES)
    return _table(kernels), summarize(kernels, pass_s)


def _table(kernels: dict[str, tuple[int, float]]) -> str:
    largest = sorted(kernels.items(), key=lambda entry: -entry[1][1])[:_TOP]
    total = sum(us for _, us in kernels.values()) or 1.0
    lines = [f"{'ms':>9} {'share':>6} {'calls':>6}  kernel"]
    lines += [
        f"{us / 1e3:9.3f} {us / total:6.1%} {count:6}  {name[:_LONGEST_NAME]}"
        for name, (count, us) in largest
    ]
    return "\n".join(lines) + "\n"
