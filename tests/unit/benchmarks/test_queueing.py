"""The queue model of the serving benchmark, against a simulation of each request."""

import numpy as np
import pytest

from benchmarks.serving.queueing import p99_over_p50


def simulated_p99_over_p50(requests, load, text_ms, patch_ms, seed):
    """Simulates a queue that serves one request after the other."""
    rng = np.random.default_rng(seed)
    pictures = rng.uniform(400, 1368, requests) * patch_ms
    service_ms = np.where(rng.random(requests) < 0.5, text_ms, pictures)
    arrivals_ms = rng.exponential(service_ms.mean() / load, requests).cumsum()
    free_at_ms, latencies_ms = 0.0, []
    for arrival_ms, needed_ms in zip(arrivals_ms, service_ms, strict=True):
        free_at_ms = max(free_at_ms, arrival_ms) + needed_ms
        latencies_ms.append(free_at_ms - arrival_ms)
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    return p99 / p50


@pytest.mark.parametrize("load", [0.1, 0.8])
def test_ratio_equals_that_of_a_simulated_queue(load):
    arguments = (500, load, 40.0, 0.5, 3)
    assert p99_over_p50(*arguments) == pytest.approx(simulated_p99_over_p50(*arguments))
