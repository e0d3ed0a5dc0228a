from lensemble.gateway.access import rate_limits
from lensemble.gateway.access.rate_limits import Rates


def at(monkeypatch, now):
    monkeypatch.setattr(rate_limits.time, "monotonic", lambda: now)


def test_moving_window(monkeypatch):
    limit = Rates(2)
    waits = []
    for now in (0, 10, 20, 59, 60, 61, 70, 70):
        at(monkeypatch, float(now))
        waits.append(limit.wait_s("a"))
    # 0 and 10 are in; 20 and 59 wait for 60; 60 is in, so the next is at 70, and the next at 120.
    assert waits == [0, 0, 40, 1, 0, 9, 0, 50]


def test_callers_do_not_count_for_each_other_and_0_is_no_limit(monkeypatch):
    at(monkeypatch, 5.0)
    limit = Rates(1)
    assert [limit.wait_s(who) for who in "aab"] == [0, 60, 0]
    assert [Rates(0).wait_s("a") for _ in range(9)] == [0] * 9


def test_who_has_not_asked_for_long_is_forgotten(monkeypatch):
    monkeypatch.setattr(rate_limits, "_MANY", 3)
    limit = Rates(1)
    for now, who in enumerate("abc"):
        at(monkeypatch, 50.0 * now)
        limit.wait_s(who)
    at(monkeypatch, 111.0)
    limit.wait_s("d")
    assert set(limit._asked) == {"c", "d"}
