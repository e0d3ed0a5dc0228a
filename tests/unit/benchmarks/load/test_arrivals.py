"""The open loop, on a simulated clock: when requests are sent, and what their latency contains."""

import heapq
import itertools

import greenlet
import numpy as np
import pytest

from benchmarks.load.load_schedule import LoadSchedule
from benchmarks.load.users.arrivals import OpenLoop, WeightedRoundRobin, arrival_times
from tests.unit.benchmarks.load.scenarios import open_loop


class SimulatedTime:
    """A clock that only advances while all greenlets sleep, so that times are exact."""

    def __init__(self):
        self.now, self._due, self._numbers = 0.0, [], itertools.count()

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self._push(self.now + seconds, greenlet.getcurrent())
        self._hub.switch()

    def spawn(self, function):
        self._push(self.now, greenlet.greenlet(function, self._hub))

    def run(self, function):
        self._hub = greenlet.greenlet(self._until_all_are_done)
        self.spawn(function)
        self._hub.switch()

    def _push(self, at, sleeper):
        heapq.heappush(self._due, (at, next(self._numbers), sleeper))

    def _until_all_are_done(self):
        while self._due:
            self.now, _, sleeper = heapq.heappop(self._due)
            sleeper.switch()


class Server:
    """Answers one request at a time; each takes the same number of seconds."""

    def __init__(self, time, seconds):
        self._time, self._seconds, self._free = time, seconds, 0.0

    def answer(self):
        self._free = max(self._free, self._time.now) + self._seconds
        self._time.sleep(self._free - self._time.now)


def drive(due, service_s, in_flight):
    """Returns (intended, sent, ended) of each sent request, and the times of the others."""
    time = SimulatedTime()
    server = Server(time, service_s)
    loop = OpenLoop(in_flight, time.clock, time.sleep, time.spawn)
    sent, refused = [], []

    def send(intended):
        began = time.now
        server.answer()
        sent.append((intended, began, time.now))

    time.run(lambda: loop.run(iter(due), send, refused.append))
    assert loop.in_flight == 0
    return sent, refused


def test_slow_server_does_not_delay_arrivals_and_waiting_counts_as_latency():
    due = [n / 2 for n in range(10)]
    sent, refused = drive(due, service_s=1.0, in_flight=100)
    assert [began for _, began, _ in sent] == due
    # Answer n arrives at n + 1; a closed loop would have measured 1 s for each.
    assert [ended - intended for intended, _, ended in sent] == [1 + n / 2 for n in range(10)]
    assert refused == []


def test_request_that_is_due_at_the_limit_of_requests_in_flight_is_never_sent():
    due = [n / 2 for n in range(10)]
    sent, refused = drive(due, service_s=1.2, in_flight=2)
    assert refused == [1.0, 2.0, 3.0, 3.5, 4.5]
    assert [began for _, began, _ in sent] == [0.0, 0.5, 1.5, 2.5, 4.0]
    assert [ended for _, _, ended in sent] == pytest.approx([1.2, 2.4, 3.6, 4.8, 6.0])


def test_generator_that_is_late_adds_its_delay_to_latency():
    time = SimulatedTime()
    sent = []

    def oversleep(seconds):
        time.sleep(seconds + 0.25)

    loop = OpenLoop(9, time.clock, oversleep, time.spawn)

    def send(intended):
        began = time.now
        time.sleep(1.0)
        sent.append((began - intended, time.now - intended))

    time.run(lambda: loop.run(iter([0.0, 4.0]), send, pytest.fail))
    assert sent == [(0.25, 1.25), (0.25, 1.25)]


def test_request_that_fails_no_longer_counts_as_in_flight():
    time = SimulatedTime()
    loop = OpenLoop(1, time.clock, time.sleep, time.spawn)

    def send(intended):
        raise greenlet.GreenletExit  # ends the greenlet without a trace

    refused = []
    time.run(lambda: loop.run(iter([0.0, 1.0]), send, refused.append))
    assert loop.in_flight == 0 and refused == []


def test_constant_arrivals_are_evenly_spaced_and_rests_are_empty():
    schedule = LoadSchedule(open_loop(rates=[2, 4], seconds=1, warm_up_s=1, rest_s=3))
    first = [0.0, 0.5, 1.0, 1.5]
    second = [5 + n / 4 for n in range(8)]
    assert list(arrival_times(schedule, "constant")) == [*first, *second]


def test_poisson_arrivals_have_their_rate_and_exponential_gaps():
    schedule = LoadSchedule(open_loop(rates=[200], seconds=99, warm_up_s=1))
    due = np.array(list(arrival_times(schedule, "poisson")))
    gaps = np.diff(due)
    assert len(due) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert (gaps >= 0).all() and due[-1] < 100


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_workers_together_send_at_the_times_of_a_single_worker(arrivals):
    schedule = LoadSchedule(open_loop(rates=[7, 30], rest_s=1))
    parts = [list(arrival_times(schedule, arrivals, worker, 3)) for worker in range(3)]
    assert sorted(itertools.chain(*parts)) == list(arrival_times(schedule, arrivals))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_actions_are_chosen_by_weight_and_evenly():
    scenario = open_loop(
        actions=[{"name": "embed", "weight": 3}, {"name": "search"}], index_items=1
    )
    turns = WeightedRoundRobin(scenario.actions)
    names = [turns.next().name for _ in range(8)]
    assert names.count("search") == 2
    assert "search" in names[:4] and "search" in names[4:]
