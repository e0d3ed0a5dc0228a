"""Exact search by PyTorch: queries per second, and whether it finds what float32 finds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.measuring.comparison import exact_fp32
from benchmarks.gpu.measuring.context import Step, parse_arguments
from lensemble.index.snapshots.torch_search import TorchSearch

COUNT, DIMENSION, K = 1_000_000, 1024, 10
_DRY_COUNT, _DRY_DIMENSION = 2_000, 64
QUERIES = (1, 16, 64)
# Two float32 sums of the same products in different orders.
_LARGEST_DIFFERENCE = 1e-5


def compare(
    step: Step, search: TorchSearch, vectors: torch.Tensor, queries: torch.Tensor
) -> Mapping[str, Any]:
    """Returns the speed of a batch of queries.

    Args:
        step: The step.
        search: The search.
        vectors: (N, D) float32, what it searches, on the device.
        queries: (B, D) float32, on the device.

    Raises:
        ValueError: Its scores are not those of a comparison with every vector in float32.
    """
    asked: NDArray[np.float32] = queries.cpu().numpy()
    scores, _ = search.search(asked, K)
    expected = (queries @ vectors.T).topk(K).values.cpu().numpy()
    difference = float(np.abs(scores - expected).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise ValueError(f"scores differ by {difference:.1e}; expected {_LARGEST_DIFFERENCE}")
    seconds = step.seconds(partial(search.search, asked, K))
    return {
        "ms": round(seconds * 1e3, 3),
        "queries_per_s": round(len(asked) / seconds, 1),
        "largest_difference": f"{difference:.1e}",
    }


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "search")
    exact_fp32()
    count, dimension = (_DRY_COUNT, _DRY_DIMENSION) if step.dry else (COUNT, DIMENSION)
    generator = torch.Generator(step.device).manual_seed(0)
    vectors = torch.nn.functional.normalize(
        torch.randn(count, dimension, device=step.device, generator=generator), dim=1
    )
    on_cpu = vectors.cpu().numpy()
    for on_device in (True, False):
        began = time.perf_counter()
        search = TorchSearch.load(on_cpu, step.device, vectors_on_device=on_device)
        step.note(**{f"load_{'all' if on_device else 'half'}_s": time.perf_counter() - began})
        for batch in QUERIES:
            noise = torch.randn(batch, dimension, device=step.device, generator=generator)
            queries = torch.nn.functional.normalize(vectors[:batch] + noise / dimension**0.5, dim=1)
            step.measure(
                partial(compare, step, search, vectors, queries),
                vectors=count,
                dimension=dimension,
                originals="GPU" if on_device else "host",
                queries=batch,
            )
    step.finish()


if __name__ == "__main__":
    main()
