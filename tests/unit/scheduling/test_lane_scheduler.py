"""The lane scheduler; a test decides when each pass runs and how long it takes."""

import contextlib
import itertools
import threading

import pytest

from lensemble.scheduling.lane_scheduler import CLEAN_UP_EVERY_S, MAX_PASS_S, LaneScheduler
from lensemble.scheduling.lanes import BULK, PICTURE, TEXT, QueuedRequest
from lensemble_client import InternalError
from tests.waiting import DEADLINE_S, FakeClock, until


class Passes:
    """A scheduler whose passes run when the test allows it. Rows are words, results capitals.

    Args:
        seconds: for each word, how far it advances the clock; words that are not named take none.

    Attributes:
        passes: the rows of each pass so far.
        answers: for each answered request, its rows and its results.
    """

    def __init__(self, seconds=None):
        self.passes, self.answers, self.seconds = [], {}, seconds or {}
        self.clock = FakeClock()
        self.allowed = threading.Semaphore(0)
        self.scheduler = LaneScheduler(
            self.run,
            around_pass=contextlib.nullcontext,
            after_pass=lambda: None,
            clock=self.clock,
        )

    def run(self, rows):
        self.allowed.acquire()
        self.passes.append([*rows])
        self.clock.advance(sum(self.seconds.get(row, 0) for row in rows))
        if "bad" in rows:
            raise RuntimeError("unlucky")
        return [row.upper() for row in rows]

    def submit(self, lane, *rows, cost=0.25):
        def on_done(results, pass_ms):
            self.answers[rows] = results

        costs = [(cost, cost / 2)] * len(rows)
        self.scheduler.submit(QueuedRequest(rows, costs, lane, on_done))

    def submit_first(self, lane=BULK):
        """Submits a row and waits until its pass has started, so that all others wait behind it."""
        self.submit(lane, "first")
        until(lambda: not self.waiting(lane))

    def waiting(self, lane):
        return self.scheduler.lanes[lane].waiting_rows

    def allow(self, count):
        for _ in range(count):
            self.allowed.release()

    def finish(self):
        self.allow(1000)
        self.scheduler.close()


def test_waiting_rows_share_a_pass_as_far_as_they_fit():
    passes = Passes()
    passes.submit_first()
    for word in "abcdef":
        passes.submit(TEXT, word)
    passes.finish()
    assert passes.passes == [["first"], ["a", "b", "c", "d"], ["e", "f"]]
    assert passes.answers[("a",)] == ["A"]


def test_row_over_the_budget_goes_alone():
    passes = Passes()
    passes.submit_first()
    passes.submit(TEXT, "a")
    passes.submit(TEXT, "huge", cost=3.0)
    passes.submit(TEXT, "b")
    passes.finish()
    assert passes.passes == [["first"], ["a", "b"], ["huge"]]


def test_text_waits_for_at_most_one_pass_of_pictures():
    passes = Passes(seconds={"p": 0.05, "t": 0.005})
    passes.submit_first(PICTURE)
    for _ in range(8):
        passes.submit(PICTURE, "p", cost=1.0)
    passes.allow(3)  # the first row and two pictures
    until(lambda: passes.waiting(PICTURE) == 5)  # the third picture is in a pass that waits
    passes.submit(TEXT, "t")
    passes.finish()
    assert passes.passes.index(["t"]) == 4


def test_pictures_do_not_starve_behind_texts():
    """Each of two full lanes gets half of the time: one picture takes as long as ten texts."""
    passes = Passes(seconds={"p": 0.05, "t": 0.005})
    passes.submit_first()
    for _ in range(6):
        passes.submit(PICTURE, "p", cost=1.0)
    for _ in range(40):
        passes.submit(TEXT, "t", cost=1.0)
    passes.finish()
    places = [n for n, rows in enumerate(passes.passes) if rows == ["p"]]
    gaps = [later - sooner for sooner, later in itertools.pairwise(places)]
    assert max(gaps[:3]) <= 16
    assert min(gaps[:3]) >= 4


def test_idle_lane_does_not_save_up_time():
    passes = Passes(seconds={"t": 0.02, "p": 0.02})
    for _ in range(10):
        passes.submit(TEXT, "t", cost=1.0)
    passes.allow(10)
    until(lambda: len(passes.passes) == 10)
    passes.submit_first()
    for _ in range(8):
        passes.submit(PICTURE, "p", cost=1.0)
        passes.submit(TEXT, "t", cost=1.0)
    passes.finish()
    order = [rows[0] for rows in passes.passes[11:]]
    assert 3 <= order[:8].count("p") <= 6  # in turns, not all pictures first


def test_remaining_room_goes_to_the_other_lanes():
    passes = Passes()
    passes.submit_first()
    passes.submit(PICTURE, "p")
    passes.submit(TEXT, "t")
    passes.finish()
    assert sorted(passes.passes[1]) == ["p", "t"]


def test_request_is_answered_when_its_last_row_is_computed():
    passes = Passes()
    passes.submit_first()
    rows = tuple(f"r{n}" for n in range(6))
    passes.submit(BULK, *rows)
    passes.allow(2)
    until(lambda: len(passes.passes) == 2)
    until(lambda: ("first",) in passes.answers)
    assert rows not in passes.answers
    passes.finish()
    assert passes.answers[rows] == [row.upper() for row in rows]


def test_failed_pass_is_an_error_of_its_rows_only():
    passes = Passes()
    passes.submit_first()
    passes.submit(TEXT, "bad", cost=1.0)
    passes.submit(PICTURE, "p")
    passes.finish()
    (error,) = passes.answers[("bad",)]
    assert isinstance(error, InternalError)
    assert passes.answers[("p",)] == ["P"]


def test_answer_that_cannot_be_sent_does_not_stop_the_others():
    passes = Passes()
    passes.submit_first()

    def refuse(results, ms):
        raise OSError("gone")

    passes.scheduler.submit(QueuedRequest(["a"], [(0.1, 0.1)], TEXT, refuse))
    passes.submit(TEXT, "b")
    passes.finish()
    assert passes.answers[("b",)] == ["B"]


def test_callback_runs_before_the_next_pass():
    passes = Passes()
    passes.submit_first()
    passes.submit(TEXT, "a")
    order = []
    passes.scheduler.run_between_passes(lambda: order.append(len(passes.passes)))
    passes.finish()
    assert order == [1]


def test_wait_depends_on_earlier_passes_and_on_the_other_lanes():
    passes = Passes(seconds={"t": 0.05})
    passes.allow(1)
    passes.submit(TEXT, "t")
    until(lambda: passes.scheduler.lanes[TEXT].row_s > 0)
    assert passes.scheduler.wait_s(TEXT) == 0
    passes.submit_first()
    for _ in range(10):
        passes.submit(TEXT, "t")
    took = passes.scheduler.lanes[TEXT].row_s
    assert passes.waiting(TEXT) == 10
    assert passes.scheduler.wait_s(TEXT) == pytest.approx(10 * took, abs=1e-6)
    passes.submit(PICTURE, "p")
    assert passes.scheduler.wait_s(TEXT) == pytest.approx(2 * 10 * took, abs=1e-6)
    passes.finish()


def test_single_pass_may_run_immediately_when_nothing_waits():
    passes = Passes()
    scheduler = passes.scheduler

    def allowed(costs):
        with scheduler.try_immediately(costs) as allowed:
            return allowed

    assert allowed([(0.5, 0.1)] * 2)
    assert not allowed([(0.5, 0.1)] * 3)
    assert allowed([(3.0, 0.1)])  # it would be alone in its pass anyway
    assert allowed([])
    for _ in range(30):
        scheduler._learn_pass_time(0.5, MAX_PASS_S)
    assert not allowed([(0.4, 0.1)] * 2)  # the rows would fit, but take too long
    passes.submit_first()
    assert not allowed([(0.1, 0.1)])
    passes.finish()


def test_passes_of_a_slow_model_have_fewer_rows():
    """Two rows fit into the budget, but would take longer than a pass may."""
    passes = Passes()
    passes.submit_first()
    for _ in range(30):
        passes.scheduler._learn_pass_time(1.0, 2 * MAX_PASS_S)
    for word in "abcd":
        passes.submit(PICTURE, word, cost=0.4)
    passes.finish()
    assert passes.passes[1] == ["a"]


def test_small_row_fills_a_pass_for_which_an_earlier_row_is_too_large():
    passes = Passes()
    passes.submit_first()
    passes.submit(PICTURE, "a", cost=0.7)
    passes.submit(PICTURE, "b", "c", cost=0.6)
    passes.submit(PICTURE, "d", cost=0.2)
    passes.submit(PICTURE, "e", cost=0.2)
    passes.finish()
    assert passes.passes[1:] == [["a", "d"], ["b", "e"], ["c"]], (
        "the skipped row is first in the next pass"
    )


def test_close_answers_waiting_requests():
    passes = Passes()
    passes.submit_first()
    passes.submit(TEXT, "a")
    passes.finish()
    assert passes.answers[("a",)] == ["A"]


@pytest.fixture
def cleaned():
    """A scheduler, its clock, and the times of its clean-ups."""
    clock, times = FakeClock(), []
    scheduler = LaneScheduler(
        lambda rows: rows,
        around_pass=contextlib.nullcontext,
        after_pass=lambda: None,
        clean_up=lambda: times.append(clock()),
        clock=clock,
    )
    yield scheduler, clock, times
    scheduler.close()


def compute_one_row(scheduler):
    done = threading.Event()
    scheduler.submit(QueuedRequest(["row"], [(0.1,)], TEXT, lambda *_: done.set()))
    assert done.wait(DEADLINE_S)


def become_idle(scheduler):
    """Does the same as the thread of the passes when nothing is left to compute."""
    with scheduler._changed:
        scheduler._clean_up_if_due()


def test_cleans_up_once_after_work_when_a_while_has_passed(cleaned):
    scheduler, clock, times = cleaned
    become_idle(scheduler)
    assert times == []  # too early
    clock.advance(CLEAN_UP_EVERY_S)
    become_idle(scheduler)
    assert len(times) == 1  # loading the model is work, too
    clock.advance(CLEAN_UP_EVERY_S)
    become_idle(scheduler)
    assert len(times) == 1  # there was no work since
    compute_one_row(scheduler)
    until(lambda: len(times) == 2)
    clock.advance(CLEAN_UP_EVERY_S)
    with scheduler.try_immediately([(0.1,)]) as allowed:
        assert allowed
    become_idle(scheduler)
    assert len(times) == 3


def test_cleans_up_between_passes_of_steady_work(cleaned):
    scheduler, clock, times = cleaned
    for _ in range(10):
        clock.advance(CLEAN_UP_EVERY_S / 2)
        compute_one_row(scheduler)
        until(lambda: not scheduler._busy)
        become_idle(scheduler)
    assert len(times) == 5
    assert all(later - earlier >= CLEAN_UP_EVERY_S for earlier, later in itertools.pairwise(times))
