import numpy as np
import pytest

from benchmarks.serving.queueing import p99_over_p50


def one_after_the_other(requests, load, text_ms, patch_ms, seed):
    """The same queue, request by request."""
    rng = np.random.default_rng(seed)
    pictures = rng.uniform(400, 1368, requests) * patch_ms
    taken = np.where(rng.random(requests) < 0.5, text_ms, pictures)
    arrived = rng.exponential(taken.mean() / load, requests).cumsum()
    free, waited = 0.0, []
    for when, long in zip(arrived, taken, strict=True):
        free = max(free, when) + long
        waited.append(free - when)
    p50, p99 = np.percentile(waited, [50, 99])
    return p99 / p50


@pytest.mark.parametrize("load", [0.1, 0.8])
def test_waits_are_those_of_a_queue_in_order(load):
    given = (500, load, 40.0, 0.5, 3)
    assert p99_over_p50(*given) == pytest.approx(one_after_the_other(*given))
