"""Lanes with passes whose lengths and results are made by hand."""

import contextlib
import itertools
import threading
import time

import pytest

from lensemble.scheduling.admission import BULK, PICTURE, TEXT
from lensemble.scheduling.lanes import SLICE_S, Job, Lanes
from lensemble_client import InternalError


class Passes:
    """Runs passes when the test says so; a row is a word, its result the same in capitals."""

    def __init__(self, seconds=None):
        self.seen, self.answers, self.seconds = [], {}, seconds or {}
        self.gate = threading.Semaphore(0)
        self.lanes = Lanes(self.run, around=contextlib.nullcontext, after=lambda: None)

    def run(self, rows):
        self.gate.acquire()
        self.seen.append([*rows])
        time.sleep(sum(self.seconds.get(row, 0) for row in rows))
        if "bad" in rows:
            raise RuntimeError("unlucky")
        return [row.upper() for row in rows]

    def submit(self, lane, *rows, cost=0.25):
        job = Job(rows, [(cost, cost / 2)] * len(rows), lane, self.done(rows))
        self.lanes.submit(job)
        return job

    def done(self, rows):
        def note(results, ms):
            self.answers[rows] = results

        return note

    def let(self, count):
        for _ in range(count):
            self.gate.release()

    def finish(self):
        self.let(100)
        self.lanes.close()


def until(true):
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def first(passes, lane=BULK):
    """A pass that is under way, behind which the others wait."""
    passes.submit(lane, "first")
    until(lambda: not passes.lanes.waiting(lane))


def test_what_waits_shares_a_pass_as_far_as_it_fits():
    passes = Passes()
    first(passes)
    for word in "abcdef":
        passes.submit(TEXT, word)
    passes.finish()
    assert passes.seen == [["first"], ["a", "b", "c", "d"], ["e", "f"]]
    assert passes.answers[("a",)] == ["A"]


def test_row_over_the_budget_goes_alone():
    passes = Passes()
    first(passes)
    passes.submit(TEXT, "a")
    passes.submit(TEXT, "huge", cost=3.0)
    passes.submit(TEXT, "b")
    passes.finish()
    assert passes.seen == [["first"], ["a", "b"], ["huge"]]


def test_text_is_never_behind_more_than_one_pass_of_pictures():
    passes = Passes(seconds={"p": 0.05, "t": 0.005})
    first(passes, PICTURE)
    for _ in range(8):
        passes.submit(PICTURE, "p", cost=1.0)
    passes.let(3)  # the first, and two pictures
    until(lambda: len(passes.seen) == 3)
    passes.submit(TEXT, "t")
    passes.finish()
    assert passes.seen.index(["t"]) == 3


def test_pictures_do_not_starve_behind_texts():
    """Both lanes full: each has half of the time, so ten texts for a picture that takes as long."""
    passes = Passes(seconds={"p": 0.05, "t": 0.005})
    first(passes)
    for _ in range(6):
        passes.submit(PICTURE, "p", cost=1.0)
    for _ in range(40):
        passes.submit(TEXT, "t", cost=1.0)
    passes.finish()
    places = [n for n, rows in enumerate(passes.seen) if rows == ["p"]]
    gaps = [later - sooner for sooner, later in itertools.pairwise(places)]
    assert max(gaps[:3]) <= 16
    assert min(gaps[:3]) >= 4


def test_idle_lane_saves_no_time_up():
    passes = Passes(seconds={"t": 0.02, "p": 0.02})
    for _ in range(10):
        passes.submit(TEXT, "t", cost=1.0)
    passes.let(10)
    until(lambda: len(passes.seen) == 10)
    first(passes)
    for _ in range(8):
        passes.submit(PICTURE, "p", cost=1.0)
        passes.submit(TEXT, "t", cost=1.0)
    passes.finish()
    order = [rows[0] for rows in passes.seen[11:]]
    assert 3 <= order[:8].count("p") <= 6  # by turns, not all the pictures first


def test_room_that_is_left_goes_to_the_other_lanes():
    passes = Passes()
    first(passes)
    passes.submit(PICTURE, "p")
    passes.submit(TEXT, "t")
    passes.finish()
    assert sorted(passes.seen[1]) == ["p", "t"]


def test_request_is_answered_when_its_last_row_is_there():
    passes = Passes()
    first(passes)
    rows = tuple(f"r{n}" for n in range(6))
    passes.submit(BULK, *rows)
    passes.let(2)
    until(lambda: len(passes.seen) == 2)
    time.sleep(0.02)
    assert rows not in passes.answers
    passes.finish()
    assert passes.answers[rows] == [row.upper() for row in rows]


def test_pass_that_fails_is_the_error_of_its_rows_and_the_next_goes_on():
    passes = Passes()
    first(passes)
    passes.submit(TEXT, "bad", cost=1.0)
    passes.submit(PICTURE, "p")
    passes.finish()
    (error,) = passes.answers[("bad",)]
    assert isinstance(error, InternalError)
    assert passes.answers[("p",)] == ["P"]


def test_answer_that_cannot_be_sent_stops_nobody():
    passes = Passes()
    first(passes)

    def refuse(results, ms):
        raise OSError("gone")

    passes.lanes.submit(Job(["a"], [(0.1, 0.1)], TEXT, refuse))
    passes.submit(TEXT, "b")
    passes.finish()
    assert passes.answers[("b",)] == ["B"]


def test_aside_comes_before_the_next_pass():
    passes = Passes()
    first(passes)
    passes.submit(TEXT, "a")
    order = []
    passes.lanes.aside(lambda: order.append(len(passes.seen)))
    passes.finish()
    assert order == [1]


def test_wait_goes_by_what_rows_took_and_who_else_waits():
    passes = Passes(seconds={"t": 0.05})
    passes.let(1)
    passes.submit(TEXT, "t")
    until(lambda: passes.lanes.lanes[TEXT].row_s > 0)
    assert passes.lanes.wait_s(TEXT) == 0
    first(passes)
    for _ in range(10):
        passes.submit(TEXT, "t")
    took = passes.lanes.lanes[TEXT].row_s
    assert passes.lanes.waiting(TEXT) == 10
    assert passes.lanes.wait_s(TEXT) == pytest.approx(10 * took, abs=0.2)
    passes.submit(PICTURE, "p")
    assert passes.lanes.wait_s(TEXT) == pytest.approx(2 * 10 * took, abs=0.2)
    passes.finish()


def test_one_pass_with_nothing_else_to_do_is_made_at_once():
    passes = Passes()
    lanes = passes.lanes

    def may(costs):
        with lanes.at_once(costs) as may:
            return may

    assert may([(0.5, 0.1)] * 2)
    assert not may([(0.5, 0.1)] * 3)
    assert may([(3.0, 0.1)])  # it would go alone in a lane, too
    assert may([])
    for _ in range(30):
        lanes._learn(0.5, SLICE_S)
    assert not may([(0.4, 0.1)] * 2)  # it would fit, and take too long
    first(passes)
    assert not may([(0.1, 0.1)])
    passes.finish()


def test_pass_of_a_slow_model_is_short():
    """By its budget two would fit, and take longer than a pass may."""
    passes = Passes()
    first(passes)
    for _ in range(30):
        passes.lanes._learn(1.0, 2 * SLICE_S)
    for word in "abcd":
        passes.submit(PICTURE, word, cost=0.4)
    passes.finish()
    assert passes.seen[1] == ["a"]


def test_what_is_small_fills_a_pass_that_what_is_before_it_would_not():
    passes = Passes()
    first(passes)
    passes.submit(PICTURE, "a", cost=0.7)
    passes.submit(PICTURE, "b", "c", cost=0.6)
    passes.submit(PICTURE, "d", cost=0.2)
    passes.submit(PICTURE, "e", cost=0.2)
    passes.finish()
    assert passes.seen[1:] == [["a", "d"], ["b", "e"], ["c"]], "and who was passed is the next"


def test_close_finishes_what_waits():
    passes = Passes()
    first(passes)
    passes.submit(TEXT, "a")
    passes.finish()
    assert passes.answers[("a",)] == ["A"]


def resting():
    """Lanes, and when they rested."""
    rests = []
    lanes = Lanes(
        lambda rows: rows,
        around=contextlib.nullcontext,
        after=lambda: None,
        rest=lambda: rests.append(time.monotonic()),
    )
    return lanes, rests


def test_rests_once_when_there_was_no_work_for_a_while(monkeypatch):
    monkeypatch.setattr("lensemble.scheduling.lanes.REST_S", 0.05)
    lanes, rests = resting()
    until(lambda: len(rests) == 1)
    time.sleep(0.3)
    assert len(rests) == 1
    done = threading.Event()
    lanes.submit(Job(["row"], [(0.1,)], TEXT, lambda *_: done.set()))
    assert done.wait(10)
    until(lambda: len(rests) == 2)
    with lanes.at_once([(0.1,)]) as at_once:
        assert at_once
    until(lambda: len(rests) == 3)
    lanes.close()
    assert len(rests) == 3


def test_rests_between_passes_when_it_is_never_idle_for_long(monkeypatch):
    monkeypatch.setattr("lensemble.scheduling.lanes.REST_S", 0.2)
    lanes, rests = resting()
    began = time.monotonic()
    while time.monotonic() - began < 1:
        done = threading.Event()
        lanes.submit(Job(["row"], [(0.1,)], TEXT, lambda *_, done=done: done.set()))
        assert done.wait(10)
    lanes.close()
    assert 2 <= len(rests) <= 5
    assert all(later - earlier >= 0.2 for earlier, later in itertools.pairwise(rests))
