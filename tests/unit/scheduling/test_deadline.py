import numpy as np
import pytest

from lensemble.scheduling import deadline
from lensemble.scheduling.deadline import NEVER, from_timeout, is_over, later
from lensemble.stages.parameters import deadline_of
from lensemble_client import InvalidInputError
from lensemble_client.transports.wire import with_timeout


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands at 1,000 ns until a test sets it."""
    now = [1_000]
    monkeypatch.setattr(deadline.time, "monotonic_ns", lambda: now[0])
    return now


def test_deadline_passes_when_its_timeout_is_over(clock):
    soon = from_timeout(1)
    clock[0] += 1_000_000
    assert not is_over(soon)
    clock[0] += 1
    assert is_over(soon)
    assert not is_over(NEVER)


def test_never_is_later_than_every_deadline():
    assert later(5, 9) == later(9, 5) == 9
    assert later(5, NEVER) == later(NEVER, 5) == NEVER


def test_timeout_counts_from_the_moment_it_is_read(clock):
    assert deadline_of({}, {"timeout_ms": 1500}) == 1_500_001_000
    assert deadline_of({}, {"timeout_ms": "1500"}) == 1_500_001_000
    assert deadline_of({}, {}) == NEVER


def test_deadline_of_an_earlier_model_is_kept():
    rows = {"deadline": np.array([[77], [77]], np.int64)}
    assert deadline_of(rows, {"timeout_ms": 1500}) == 77


@pytest.mark.parametrize("bad", [0, -1, "soon", "nan", True, [], 1e12])
def test_other_timeouts_are_refused(bad):
    with pytest.raises(InvalidInputError, match="timeout_ms: "):
        deadline_of({}, {"timeout_ms": bad})


def test_clients_send_their_timeout():
    assert with_timeout({"top_k": 3}, 2.5) == {"top_k": 3, "timeout_ms": 2500}
    assert with_timeout({}, 1e-9) == {"timeout_ms": 1}
    assert with_timeout({"timeout_ms": 7}, 2.5) == {"timeout_ms": 7}
    assert with_timeout({}, float("inf")) == {}
