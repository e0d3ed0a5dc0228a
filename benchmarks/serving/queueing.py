"""Simulates p99 over p50 of a server that answers one request at a time, in order.

    python -m benchmarks.serving.queueing [--load 0.8] [--text-ms 43] [--patch-ms 0.53]

It helps to interpret `p99_over_p50_at_80` of `benchmarks.serving.served`. Arrivals are Poisson;
half of the requests are texts of one length, half are pictures of 400 to 1,368 patches, as in the
`small` workload, where batches do not make an item cheaper. The defaults are the times of single
items there (Intel Xeon, two cores).
"""

from __future__ import annotations

import argparse

import numpy as np

PATCHES = (400, 1368)
# Requests of the long run, requests of a short run (as in a round of `served`), number of short
# runs.
LONG, SHORT, RUNS = 200_000, 128, 400


def p99_over_p50(requests: int, load: float, text_ms: float, patch_ms: float, seed: int) -> float:
    """Returns the ratio of the percentiles of the time from arrival to answer.

    Args:
        requests: Number of requests.
        load: Share of the time that the server is busy, below 1.
        text_ms: Milliseconds that a text takes.
        patch_ms: Milliseconds that one patch of a picture takes.
        seed: Seed of arrivals and sizes.
    """
    rng = np.random.default_rng(seed)
    pictures = rng.uniform(*PATCHES, requests) * patch_ms
    service = np.where(rng.random(requests) < 0.5, text_ms, pictures)
    arrived = rng.exponential(service.mean() / load, requests).cumsum()
    # Lindley's recursion: a request begins when it has arrived and all earlier ones have ended.
    done = service.cumsum()
    free = np.maximum.accumulate(arrived - (done - service))
    p50, p99 = np.percentile(free + done - arrived, [50, 99])
    return float(p99 / p50)


def main() -> None:
    """Prints the ratio of a long run, and of short runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--text-ms", type=float, default=43.0)
    parser.add_argument("--patch-ms", type=float, default=0.53)
    options = parser.parse_args()
    sizes = (options.load, options.text_ms, options.patch_ms)
    short = [p99_over_p50(SHORT, *sizes, seed=seed) for seed in range(RUNS)]
    least, middle, most = np.percentile(short, [10, 50, 90])
    print(f"{LONG} requests: {p99_over_p50(LONG, *sizes, seed=0):.1f}")
    print(f"{SHORT} requests: {middle:.1f}, in eight of ten runs {least:.1f} to {most:.1f}")


if __name__ == "__main__":
    main()
