"""How long a new request would wait, and who is refused for it; all numbers by hand."""

import time

import pytest

from lensemble import admission
from lensemble.admission import FEW, Gate, Line, Publisher, counts
from lensemble_client.errors import OverloadedError

METRICS = """# HELP nv_inference_request_success Number of successful inference requests
nv_inference_request_success{model="preprocess",version="1"} 40
nv_inference_request_success{model="qwen3_vl",version="1"} 30
nv_inference_request_success{model="embed",version="1"} 29
nv_inference_pending_request_count{model="qwen3_vl",version="1"} 7
nv_inference_pending_request_count{model="preprocess",version="1"} 2
nv_inference_pending_request_count{model="faiss",version="1"} 5
"""
NOWHERE = "http://127.0.0.1:9/metrics"


def test_metrics_are_read():
    assert counts(METRICS) == {"preprocess": (2, 40), "qwen3_vl": (7, 30)}
    assert counts("nothing") == {}
    assert counts('nv_inference_request_success{model="qwen3_vl",version="1"} 30') == {}


def test_wait_is_what_waits_over_the_rate():
    line = Line()
    line.look(0, 10, 100)
    assert line.wait_s == 0  # nothing is known
    line.look(1, 10, 105)
    assert line.wait_s == pytest.approx(10 / 5)
    line.look(2, 30, 120)
    assert line.wait_s == pytest.approx(30 / 10)  # 20 in 2 seconds


def test_time_in_which_nothing_waits_says_nothing_of_the_rate():
    line = Line()
    line.look(0, 10, 0)
    line.look(1, 10, 10)
    line.look(2, 0, 12)
    assert line.wait_s == 0
    line.look(60, 0, 13)
    line.look(61, 20, 14)
    assert line.wait_s == pytest.approx(20 / 10)


def test_batches_that_take_long_have_a_rate_too():
    """64 requests every 13 seconds, looked at every second: longer than the window."""
    line = Line()
    for second in range(66):
        line.look(second, 100, 64 * (second // 13))
        if second < 13:
            assert line.wait_s == second  # as long as nothing was finished
        else:
            assert line.wait_s == pytest.approx(100 * 13 / 64)
    for second in range(66, 120):
        line.look(second, 100, 64 * 5)  # it has come to a halt
    assert line.wait_s == 119 - 65


def test_old_rates_are_forgotten(monkeypatch):
    monkeypatch.setattr(admission, "_WINDOW_S", 2)
    line = Line()
    for second, finished in enumerate((0, 100, 200, 201, 202, 203)):
        line.look(second, 10, finished)
    assert line.wait_s == pytest.approx(10 / 1)


@pytest.fixture
def published(tmp_path):
    publisher = Publisher(NOWHERE, tmp_path)
    gate = Gate(tmp_path, 4.0)

    def publish(waiting, wait_s, age_s=0.0):
        now = time.monotonic() - age_s
        line = publisher._lines["qwen3_vl"] = Line()
        line.look(now - 1, waiting, 0)
        line.look(now, waiting, round(waiting / wait_s))
        publisher.note(now, {})
        return gate

    return publish


def test_who_waits_too_long_is_refused(published):
    gate = published(waiting=100, wait_s=3.9)
    gate.check(pictures=False)
    with pytest.raises(OverloadedError, match=r"100 requests wait, some 3\.8 s of work"):
        gate.check(pictures=True)  # half of the time
    gate = published(waiting=100, wait_s=5)
    with pytest.raises(OverloadedError, match="expected at most 4 s"):
        gate.check(pictures=False)
    assert gate.refused == 2


def test_few_may_wait_as_long_as_it_takes(published):
    published(waiting=FEW, wait_s=60).check(pictures=True)


def test_nobody_is_refused_for_what_is_stale(published):
    published(waiting=100, wait_s=60, age_s=admission.STALE_S + 1).check(pictures=True)


def test_nobody_is_refused_where_nobody_watches(tmp_path):
    Gate(None, 4.0).check(pictures=True)
    Gate(tmp_path, 4.0).check(pictures=True)
    Publisher(NOWHERE, tmp_path)
    Gate(tmp_path, 4.0).check(pictures=True)


def test_publisher_bears_a_server_that_does_not_answer(tmp_path):
    with Publisher(NOWHERE, tmp_path):
        time.sleep(3 * admission.EVERY_S)
