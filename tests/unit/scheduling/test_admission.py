"""How long a new request would wait, and who is refused for it; all numbers by hand."""

import time

import pytest

from lensemble.scheduling import admission
from lensemble.scheduling.admission import (
    BULK,
    BULK_ROWS,
    FEW,
    PICTURE,
    TEXT,
    Board,
    Gate,
    Line,
    Publisher,
    counts,
    lane_of,
)
from lensemble_contract.errors import OverloadedError

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
    assert counts('nv_inference_request_success{model="preprocess",version="1"} 30') == {}


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
    """A gate that reads what `publish` and `board` wrote."""
    publisher, board = Publisher(NOWHERE, tmp_path), Board(tmp_path, "qwen3_vl")
    gate = Gate(tmp_path, 4.0)

    def publish(waiting, wait_s, age_s=0.0):
        now = time.monotonic() - age_s
        line = publisher._lines["preprocess"] = Line()
        line.look(now - 1, waiting, 0)
        line.look(now, waiting, round(waiting / wait_s))
        publisher.note(now, {})

    return gate, publish, board


def test_lanes_by_size_and_content():
    assert lane_of(1, pictures=False) == TEXT
    assert lane_of(BULK_ROWS, pictures=True) == PICTURE
    assert lane_of(BULK_ROWS + 1, pictures=False) == BULK


def test_who_waits_too_long_in_tritons_queues_is_refused(published):
    gate, publish, _ = published
    publish(waiting=100, wait_s=3.9)
    gate.check(TEXT)
    for lane in (PICTURE, BULK):  # half of the time
        with pytest.raises(OverloadedError, match=r"100 requests wait, some 3\.8 s of work"):
            gate.check(lane)
    publish(waiting=100, wait_s=5)
    with pytest.raises(OverloadedError, match=r"expected at most 4 s \(text\)"):
        gate.check(TEXT)
    assert gate.refused == 3


def test_texts_come_in_while_pictures_wait(published):
    gate, publish, board = published
    publish(waiting=1, wait_s=0.1)
    board.write([(0.5, 40), (2.5, 90), (1.5, 200)])
    gate.check(TEXT)
    gate.check(BULK)
    with pytest.raises(OverloadedError, match=r"expected at most 2 s \(picture\)"):
        gate.check(PICTURE)


def test_both_queues_add_up(published):
    gate, publish, board = published
    publish(waiting=20, wait_s=2)
    board.write([(2.5, 20), (0, 0), (0, 0)])
    with pytest.raises(OverloadedError, match=r"40 requests wait, some 4\.5 s"):
        gate.check(TEXT)
    gate.check(PICTURE)


def test_of_several_encoders_the_one_with_least_to_do_counts(tmp_path):
    Publisher(NOWHERE, tmp_path)
    boards = [Board(tmp_path, name) for name in ("one", "other")]
    gate = Gate(tmp_path, 4.0)
    boards[0].write([(9, 90)] * 3)
    gate.check(TEXT)
    boards[1].write([(8, 80)] * 3)
    with pytest.raises(OverloadedError, match="80 requests"):
        gate.check(TEXT)


def test_few_may_wait_as_long_as_it_takes(published):
    gate, publish, board = published
    publish(waiting=FEW // 2, wait_s=60)
    board.write([(60, FEW // 2)] * 3)
    gate.check(PICTURE)


def test_nobody_is_refused_for_what_is_stale(published):
    gate, publish, _ = published
    publish(waiting=100, wait_s=60, age_s=admission.STALE_S + 1)
    gate.check(PICTURE)


def test_nobody_is_refused_where_nobody_watches(tmp_path):
    Gate(None, 4.0).check(PICTURE)
    Gate(tmp_path, 4.0).check(PICTURE)
    Publisher(NOWHERE, tmp_path)
    Gate(tmp_path, 4.0).check(PICTURE)
    Board(None, "qwen3_vl").write([(1, 1)] * 3)


def test_publisher_bears_a_server_that_does_not_answer(tmp_path):
    with Publisher(NOWHERE, tmp_path):
        time.sleep(3 * admission.EVERY_S)
