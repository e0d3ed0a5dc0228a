import time

import numpy as np
import pytest

from lensemble.scheduling import deadline
from lensemble.scheduling.deadline import from_now, is_over
from lensemble.stages.stage import deadline_of
from lensemble_client import InvalidInputError
from lensemble_client.transports.wire import with_timeout


def test_point_in_time():
    assert not is_over(0)
    assert not is_over(from_now(60_000))
    soon = from_now(1)
    time.sleep(0.01)
    assert is_over(soon)


def test_timeout_counts_from_when_it_is_read(monkeypatch):
    monkeypatch.setattr(deadline.time, "monotonic_ns", lambda: 1_000)
    assert deadline_of({}, {"timeout_ms": 1500}) == 1_500_001_000
    assert deadline_of({}, {"timeout_ms": "1500"}) == 1_500_001_000
    assert deadline_of({}, {}) == 0


def test_what_an_earlier_model_said_holds():
    rows = {"deadline": np.array([[77], [77]], np.int64)}
    assert deadline_of(rows, {"timeout_ms": 1500}) == 77


@pytest.mark.parametrize("bad", [0, -1, "soon", "nan", True, [], 1e12])
def test_other_timeouts_are_refused(bad):
    with pytest.raises(InvalidInputError, match="timeout_ms: "):
        deadline_of({}, {"timeout_ms": bad})


def test_clients_say_how_long_they_wait():
    assert with_timeout({"top_k": 3}, 2.5) == {"top_k": 3, "timeout_ms": 2500}
    assert with_timeout({}, 1e-9) == {"timeout_ms": 1}
    assert with_timeout({"timeout_ms": 7}, 2.5) == {"timeout_ms": 7}
    assert with_timeout({}, float("inf")) == {}
