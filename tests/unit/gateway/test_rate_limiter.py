"""The sliding window of the rate limiter, on a clock that the tests set."""

from lensemble.gateway.access.rate_limiter import WINDOW_S, RateLimiter
from tests.waiting import FakeClock


def test_window_slides():
    clock = FakeClock()
    limiter = RateLimiter(2, clock)
    waits = []
    for clock.now in (0.0, 10.0, 20.0, 59.0, 60.0, 61.0, 70.0, 70.0):
        waits.append(limiter.wait_s("a"))
    # The requests at 0 and 10 are accepted; those at 20 and 59 would have to wait until 60. The
    # request at 60 is accepted, the next one is possible at 70, and the one after that at 120.
    assert waits == [0, 0, 40, 1, 0, 9, 0, 50]


def test_each_caller_has_a_window_of_its_own():
    limiter = RateLimiter(1, FakeClock())
    assert [limiter.wait_s(caller) for caller in "aab"] == [0, WINDOW_S, 0]


def test_zero_sets_no_limit():
    limiter = RateLimiter(0, FakeClock())
    assert [limiter.wait_s("a") for _ in range(9)] == [0] * 9


def test_caller_is_forgotten_after_an_idle_window():
    clock = FakeClock()
    limiter = RateLimiter(1, clock)
    for clock.now, caller in ((0.0, "a"), (50.0, "b"), (100.0, "c"), (111.0, "d")):
        limiter.wait_s(caller)
    assert set(limiter._accepted) == {"c", "d"}
