"""The lane scheduler; a test decides when each pass runs and how long it takes."""

import contextlib
import itertools
import threading

import pytest

from lensemble.scheduling.lane_scheduler import CLEAN_UP_EVERY_S, MAX_PASS_S, LaneScheduler
from lensemble.scheduling.lanes import BULK, LANES, PICTURE, TEXT, QueuedRequest
from lensemble_client import InternalError
from tests.waiting import DEADLINE_S, FakeClock, until


class SteppedScheduler:
    """A scheduler whose passes run when the test allows it. Rows are words, results capitals.

    Args:
        seconds: for each word, how far it advances the clock; words that are not named take none.
        passes_in_flight: number of passes that may be started before the first has ended.
        lane_waits: where the scheduler writes how many rows wait.

    Attributes:
        started: the rows of each pass that was started.
        passes: the rows of each pass that the test has let run.
        answers: for each answered request, its rows and its results.
    """

    def __init__(self, seconds=None, passes_in_flight=1, lane_waits=None):
        self.passes, self.answers, self.seconds = [], {}, seconds or {}
        self.started = []
        self.clock = FakeClock()
        self.allowed = threading.Semaphore(0)
        self.scheduler = LaneScheduler(
            self.start,
            around_pass=contextlib.nullcontext,
            after_pass=lambda: None,
            lane_waits=lane_waits,
            clock=self.clock,
            passes_in_flight=passes_in_flight,
        )

    def start(self, rows):
        self.started.append([*rows])
        if "unstartable" in rows:
            raise RuntimeError("no room")
        return lambda: self.wait(rows)

    def wait(self, rows):
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
    stepped = SteppedScheduler()
    stepped.submit_first()
    for word in "abcdef":
        stepped.submit(TEXT, word)
    stepped.finish()
    assert stepped.passes == [["first"], ["a", "b", "c", "d"], ["e", "f"]]
    assert stepped.answers[("a",)] == ["A"]


class WrittenWaits:
    """Keeps the number of rows in each lane that the scheduler wrote last."""

    def __init__(self):
        self.rows = {}

    def write(self, waits):
        self.rows = {lane: wait.queued for lane, wait in zip(LANES, waits, strict=True)}


def test_rows_of_a_pass_that_has_started_are_not_written_as_waiting():
    """Written again when the pass starts, because nothing else may happen until it ends."""
    waits = WrittenWaits()
    stepped = SteppedScheduler(lane_waits=waits)
    stepped.submit(PICTURE, "a", "b", "c", cost=1.0)
    until(lambda: stepped.started == [["a"]])
    assert waits.rows == {TEXT: 0, PICTURE: 2, BULK: 0}
    stepped.finish()
    assert waits.rows == {TEXT: 0, PICTURE: 0, BULK: 0}


def test_row_over_the_budget_goes_alone():
    stepped = SteppedScheduler()
    stepped.submit_first()
    stepped.submit(TEXT, "a")
    stepped.submit(TEXT, "huge", cost=3.0)
    stepped.submit(TEXT, "b")
    stepped.finish()
    assert stepped.passes == [["first"], ["a", "b"], ["huge"]]


def test_text_waits_for_at_most_one_pass_of_pictures():
    stepped = SteppedScheduler(seconds={"p": 0.05, "t": 0.005})
    stepped.submit_first(PICTURE)
    for _ in range(8):
        stepped.submit(PICTURE, "p", cost=1.0)
    stepped.allow(3)  # the first row and two pictures
    until(lambda: stepped.waiting(PICTURE) == 5)  # the third picture is in a pass that waits
    stepped.submit(TEXT, "t")
    stepped.finish()
    assert stepped.passes.index(["t"]) == 4


def test_pictures_do_not_starve_behind_texts():
    """Each of two full lanes gets half of the time: one picture takes as long as ten texts."""
    stepped = SteppedScheduler(seconds={"p": 0.05, "t": 0.005})
    stepped.submit_first()
    for _ in range(6):
        stepped.submit(PICTURE, "p", cost=1.0)
    for _ in range(40):
        stepped.submit(TEXT, "t", cost=1.0)
    stepped.finish()
    places = [n for n, rows in enumerate(stepped.passes) if rows == ["p"]]
    gaps = [later - sooner for sooner, later in itertools.pairwise(places)]
    assert max(gaps[:3]) <= 16
    assert min(gaps[:3]) >= 4


def test_idle_lane_does_not_save_up_time():
    stepped = SteppedScheduler(seconds={"t": 0.02, "p": 0.02})
    for _ in range(10):
        stepped.submit(TEXT, "t", cost=1.0)
    stepped.allow(10)
    until(lambda: len(stepped.passes) == 10)
    stepped.submit_first()
    for _ in range(8):
        stepped.submit(PICTURE, "p", cost=1.0)
        stepped.submit(TEXT, "t", cost=1.0)
    stepped.finish()
    order = [rows[0] for rows in stepped.passes[11:]]
    assert 3 <= order[:8].count("p") <= 6  # in turns, not all pictures first


def test_remaining_room_goes_to_the_other_lanes():
    stepped = SteppedScheduler()
    stepped.submit_first()
    stepped.submit(PICTURE, "p")
    stepped.submit(TEXT, "t")
    stepped.finish()
    assert sorted(stepped.passes[1]) == ["p", "t"]


def test_request_is_answered_when_its_last_row_is_computed():
    stepped = SteppedScheduler()
    stepped.submit_first()
    rows = tuple(f"r{n}" for n in range(6))
    stepped.submit(BULK, *rows)
    stepped.allow(2)
    until(lambda: len(stepped.passes) == 2)
    until(lambda: ("first",) in stepped.answers)
    assert rows not in stepped.answers
    stepped.finish()
    assert stepped.answers[rows] == [row.upper() for row in rows]


def test_failed_pass_is_an_error_of_its_rows_only():
    stepped = SteppedScheduler()
    stepped.submit_first()
    stepped.submit(TEXT, "bad", cost=1.0)
    stepped.submit(PICTURE, "p")
    stepped.finish()
    (error,) = stepped.answers[("bad",)]
    assert isinstance(error, InternalError)
    assert stepped.answers[("p",)] == ["P"]


def test_answer_that_cannot_be_sent_does_not_stop_the_others():
    stepped = SteppedScheduler()
    stepped.submit_first()

    def refuse(results, ms):
        raise OSError("gone")

    stepped.scheduler.submit(QueuedRequest(["a"], [(0.1, 0.1)], TEXT, refuse))
    stepped.submit(TEXT, "b")
    stepped.finish()
    assert stepped.answers[("b",)] == ["B"]


def test_callback_runs_before_the_next_pass():
    stepped = SteppedScheduler()
    stepped.submit_first()
    stepped.submit(TEXT, "a")
    order = []
    stepped.scheduler.run_between_passes(lambda: order.append(len(stepped.passes)))
    stepped.finish()
    assert order == [1]


def test_wait_depends_on_earlier_passes_and_on_the_other_lanes():
    stepped = SteppedScheduler(seconds={"t": 0.05})
    stepped.allow(1)
    stepped.submit(TEXT, "t")
    until(lambda: stepped.scheduler.lanes[TEXT].row_s > 0)
    assert stepped.scheduler.wait_s(TEXT) == 0
    stepped.submit_first()
    for _ in range(10):
        stepped.submit(TEXT, "t")
    took = stepped.scheduler.lanes[TEXT].row_s
    assert stepped.waiting(TEXT) == 10
    assert stepped.scheduler.wait_s(TEXT) == pytest.approx(10 * took, abs=1e-6)
    stepped.submit(PICTURE, "p")
    assert stepped.scheduler.wait_s(TEXT) == pytest.approx(2 * 10 * took, abs=1e-6)
    stepped.finish()


def test_single_pass_may_run_immediately_when_nothing_waits():
    stepped = SteppedScheduler()
    scheduler = stepped.scheduler

    def allowed(costs):
        with scheduler.try_immediately(costs) as is_allowed:
            return is_allowed

    assert allowed([(0.5, 0.1)] * 2)
    assert not allowed([(0.5, 0.1)] * 3)
    assert allowed([(3.0, 0.1)])  # it would be alone in its pass anyway
    assert allowed([])
    for _ in range(30):
        scheduler._learn_pass_time(0.5, MAX_PASS_S)
    assert not allowed([(0.4, 0.1)] * 2)  # the rows would fit, but take too long
    stepped.submit_first()
    assert not allowed([(0.1, 0.1)])
    stepped.finish()


def test_passes_of_a_slow_model_have_fewer_rows():
    """Two rows fit into the budget, but would take longer than a pass may."""
    stepped = SteppedScheduler()
    stepped.submit_first()
    for _ in range(30):
        stepped.scheduler._learn_pass_time(1.0, 2 * MAX_PASS_S)
    for word in "abcd":
        stepped.submit(PICTURE, word, cost=0.4)
    stepped.finish()
    assert stepped.passes[1] == ["a"]


def test_duration_of_a_pass_limits_the_next_ones():
    stepped = SteppedScheduler(seconds={"slow": 3 * MAX_PASS_S})
    stepped.submit(PICTURE, "slow", cost=1.0)
    stepped.submit(PICTURE, "a", "b")
    stepped.finish()
    assert stepped.passes == [["slow"], ["a"], ["b"]]


def test_small_row_fills_a_pass_for_which_an_earlier_row_is_too_large():
    stepped = SteppedScheduler()
    stepped.submit_first()
    stepped.submit(PICTURE, "a", cost=0.7)
    stepped.submit(PICTURE, "b", "c", cost=0.6)
    stepped.submit(PICTURE, "d", cost=0.2)
    stepped.submit(PICTURE, "e", cost=0.2)
    stepped.finish()
    assert stepped.passes[1:] == [["a", "d"], ["b", "e"], ["c"]], (
        "the skipped row is first in the next pass"
    )


def test_close_answers_waiting_requests():
    stepped = SteppedScheduler()
    stepped.submit_first()
    stepped.submit(TEXT, "a")
    stepped.finish()
    assert stepped.answers[("a",)] == ["A"]


@pytest.fixture
def cleaned():
    """A scheduler, its clock, and the times of its clean-ups."""
    clock, times = FakeClock(), []
    scheduler = LaneScheduler(
        lambda rows: lambda: rows,
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


def test_steps_of_the_tests_clock_add_up_exactly(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 16379.184105618)  # + 30 passes 2^14
    clock = FakeClock()
    start = clock()
    clock.advance(CLEAN_UP_EVERY_S / 2)
    clock.advance(CLEAN_UP_EVERY_S / 2)
    assert clock() - start == CLEAN_UP_EVERY_S


def test_cleans_up_between_passes_of_steady_work(cleaned):
    scheduler, clock, times = cleaned
    for _ in range(10):
        clock.advance(CLEAN_UP_EVERY_S / 2)
        compute_one_row(scheduler)
        until(lambda: not scheduler._busy)
        become_idle(scheduler)
    assert len(times) == 5
    assert all(later - earlier >= CLEAN_UP_EVERY_S for earlier, later in itertools.pairwise(times))


def test_next_pass_is_started_while_one_runs_if_two_may_be_in_flight():
    stepped = SteppedScheduler(passes_in_flight=2)
    stepped.submit_first()
    stepped.submit(TEXT, "a", cost=1.0)
    stepped.submit(TEXT, "b", cost=1.0)
    stepped.allow(1)
    until(lambda: stepped.started == [["first"], ["a"], ["b"]])
    assert stepped.passes == [["first"]]
    stepped.submit(TEXT, "c", cost=1.0)
    stepped.allow(1)
    until(lambda: ["c"] in stepped.started)
    assert stepped.passes == [["first"], ["a"]]
    stepped.finish()
    assert stepped.passes == stepped.started == [["first"], ["a"], ["b"], ["c"]]
    assert stepped.answers[("c",)] == ["C"]


def test_last_pass_ends_although_nothing_follows_it():
    stepped = SteppedScheduler(passes_in_flight=2)
    stepped.submit(TEXT, "a")
    stepped.allow(1)
    until(lambda: stepped.answers.get(("a",)) == ["A"])
    stepped.finish()


def test_lanes_are_charged_once_for_time_that_two_passes_share():
    stepped = SteppedScheduler(seconds={"first": 2.0, "a": 3.0, "b": 4.0}, passes_in_flight=2)
    start = stepped.clock()
    stepped.submit_first(TEXT)
    stepped.submit(TEXT, "a", cost=1.0)
    stepped.submit(TEXT, "b", cost=1.0)
    stepped.allow(1)
    until(lambda: ["b"] in stepped.started)
    assert stepped.clock() - start == pytest.approx(2.0)  # "a" runs, and "b" was started, too
    stepped.finish()
    assert stepped.clock() - start == pytest.approx(9.0)
    assert stepped.scheduler.lanes[TEXT].used_s == pytest.approx(9.0)


@pytest.mark.parametrize("passes_in_flight", [1, 2])
def test_pass_that_cannot_be_started_fails_alone(passes_in_flight):
    stepped = SteppedScheduler(passes_in_flight=passes_in_flight)
    stepped.submit_first()
    stepped.submit(TEXT, "unstartable", cost=1.0)
    stepped.submit(TEXT, "a", cost=1.0)
    stepped.finish()
    (error,) = stepped.answers[("unstartable",)]
    assert isinstance(error, InternalError)
    assert stepped.answers[("a",)] == ["A"]
