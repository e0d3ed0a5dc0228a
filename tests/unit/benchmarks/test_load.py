"""The load tests' own arithmetic: schedules, latencies, what is merged, what passes.

Locust is not imported here: it patches the standard library.
"""

import heapq
import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import greenlet
import grpc
import numpy as np
import pytest

from benchmarks.common.workload import MIXES, WORKLOADS
from benchmarks.load import scenario as scenarios
from benchmarks.load.plan import Plan
from benchmarks.load.report.latencies import Latencies
from benchmarks.load.report.limits import failures, table_of
from benchmarks.load.report.step_figures import figures
from benchmarks.load.report.tally import ALL, NOT_SENT, Done, Tallies
from benchmarks.load.users.arrivals import OpenLoop, Turns, schedule
from benchmarks.load.users.connections import TritonConnection, check_url
from benchmarks.load.users.corpus import INDEX, Source, read, write
from benchmarks.load.users.gateway import HttpError
from lensemble_client import Client, Item
from lensemble_contract.errors import InternalError, InvalidInputError
from tests.fake_server import FakeTransport
from tests.paths import ROOT

CLOSED = {
    "about": "a test",
    "workload": "demo",
    "actions": [{"name": "embed"}],
    "users": [1, 4],
    "seconds": 10,
    "warm_up_s": 2,
}
OPEN = {**CLOSED, "loop": "open", "users": (), "rates": [2], "arrivals": "constant"}


def scenario(**values):
    return scenarios.parse({**CLOSED, **values}, "test")


def open_scenario(**values):
    return scenarios.parse({**OPEN, **values}, "test")


class World:
    """Time that passes only while everybody sleeps: what happens when is exact."""

    def __init__(self):
        self.now, self._due, self._numbers = 0.0, [], itertools.count()

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self._push(self.now + seconds, greenlet.getcurrent())
        self._hub.switch()

    def spawn(self, work):
        self._push(self.now, greenlet.greenlet(work, self._hub))

    def run(self, work):
        self._hub = greenlet.greenlet(self._until_all_are_done)
        self.spawn(work)
        self._hub.switch()

    def _push(self, at, who):
        heapq.heappush(self._due, (at, next(self._numbers), who))

    def _until_all_are_done(self):
        while self._due:
            self.now, _, who = heapq.heappop(self._due)
            who.switch()


class Server:
    """Answers one request at a time; each takes so long."""

    def __init__(self, world, seconds):
        self._world, self._seconds, self._free = world, seconds, 0.0

    def ask(self):
        self._free = max(self._free, self._world.now) + self._seconds
        self._world.sleep(self._free - self._world.now)


def drive(due, service_s, in_flight, sleep=None):
    """Intended, sent and end time of each request that was sent, and the refused ones' times."""
    world = World()
    server = Server(world, service_s)
    loop = OpenLoop(in_flight, world.clock, sleep or world.sleep, world.spawn)
    sent, refused = [], []

    def send(intended):
        began = world.now
        server.ask()
        sent.append((intended, began, world.now))

    world.run(lambda: loop.run(iter(due), send, refused.append))
    assert loop.under_way == 0
    return sent, refused


def test_slow_server_does_not_slow_arrivals_down_and_waiting_is_part_of_latency():
    due = [n / 2 for n in range(10)]
    sent, refused = drive(due, service_s=1.0, in_flight=100)
    assert [began for _, began, _ in sent] == due
    # Answer n is there at n + 1; a closed loop would have found 1 s for each.
    assert [ended - intended for intended, _, ended in sent] == [1 + n / 2 for n in range(10)]
    assert refused == []


def test_arrival_that_finds_all_places_taken_is_refused_and_not_sent_later():
    due = [n / 2 for n in range(10)]
    sent, refused = drive(due, service_s=1.2, in_flight=2)
    assert refused == [1.0, 2.0, 3.0, 3.5, 4.5]
    assert [began for _, began, _ in sent] == [0.0, 0.5, 1.5, 2.5, 4.0]
    assert [ended for _, _, ended in sent] == pytest.approx([1.2, 2.4, 3.6, 4.8, 6.0])


def test_generator_that_is_late_adds_its_delay_to_latency():
    world = World()
    sent = []

    def oversleep(seconds):
        world.sleep(seconds + 0.25)

    loop = OpenLoop(9, world.clock, oversleep, world.spawn)

    def send(intended):
        began = world.now
        world.sleep(1.0)
        sent.append((began - intended, world.now - intended))

    world.run(lambda: loop.run(iter([0.0, 4.0]), send, pytest.fail))
    assert sent == [(0.25, 1.25), (0.25, 1.25)]


def test_request_that_fails_gives_its_place_back():
    world = World()
    loop = OpenLoop(1, world.clock, world.sleep, world.spawn)

    def send(intended):
        raise greenlet.GreenletExit  # ends the greenlet without a trace

    refused = []
    world.run(lambda: loop.run(iter([0.0, 1.0]), send, refused.append))
    assert loop.under_way == 0 and refused == []


def test_constant_arrivals_are_evenly_spaced_and_rests_are_empty():
    plan = Plan(open_scenario(rates=[2, 4], seconds=1, warm_up_s=1, rest_s=3))
    first = [0.0, 0.5, 1.0, 1.5]
    second = [5 + n / 4 for n in range(8)]
    assert list(schedule(plan, "constant")) == [*first, *second]


def test_poisson_arrivals_have_their_rate_and_exponential_gaps():
    plan = Plan(open_scenario(rates=[200], seconds=99, warm_up_s=1))
    due = np.array(list(schedule(plan, "poisson")))
    gaps = np.diff(due)
    assert len(due) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert (gaps >= 0).all() and due[-1] < 100


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_workers_together_send_what_one_would(arrivals):
    plan = Plan(open_scenario(rates=[7, 30], rest_s=1))
    parts = [list(schedule(plan, arrivals, worker, 3)) for worker in range(3)]
    assert sorted(itertools.chain(*parts)) == list(schedule(plan, arrivals))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_actions_come_by_weight_and_evenly():
    given = open_scenario(
        actions=[{"name": "embed", "weight": 3}, {"name": "search"}], index_items=1
    )
    turns = Turns(given.actions)
    names = [turns.next().name for _ in range(8)]
    assert names.count("search") == 2
    assert "search" in names[:4] and "search" in names[4:]


def test_plan_has_warm_up_measured_time_and_rest():
    plan = Plan(scenario(rest_s=1))
    assert [(s.begins_s, s.from_s, s.to_s) for s in plan.steps] == [(0, 2, 12), (13, 15, 25)]
    assert [plan.measured(at) for at in (0, 1.9, 2, 11.9, 12, 14, 15, 25)] == [
        None, None, 0, 0, None, None, 1, None,
    ]  # fmt: skip
    assert plan.end_s == 25


def test_users_of_a_step_are_there_from_its_warm_up_on():
    plan = Plan(scenario(users=[1, 4, 9], rest_s=1))
    assert [plan.users_at(at) for at in (0, 11, 12.5, 13, 24, 26, 99)] == [1, 1, 4, 4, 4, 9, 9]


def test_percentiles_are_those_of_all_requests():
    values = np.random.default_rng(0).lognormal(3, 1, 20_000)
    found = Latencies()
    for value in values:
        found.add(value)
    for percent in (1, 50, 95, 99, 99.9):
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert found.percentile(percent) == pytest.approx(exact, rel=0.003)
    assert found.percentile(100) == found.max_ms == values.max()
    assert found.mean_ms == pytest.approx(values.mean())


def test_no_request_has_no_percentile():
    assert Latencies().percentile(50) is None and Latencies().mean_ms is None


def test_percentile_is_never_above_the_slowest():
    found = Latencies()
    found.add(1613.9)
    assert found.percentile(50) <= 1613.9


def test_workers_latencies_are_merged_not_averaged():
    fast, slow = Latencies(), Latencies()
    for _ in range(99):
        fast.add(10)
    slow.add(1000)
    fast.merge(Latencies.from_json(json.loads(json.dumps(slow.to_json()))))
    assert fast.percentile(50) == pytest.approx(10, rel=0.003)
    assert fast.percentile(99) == pytest.approx(10, rel=0.003)  # the mean of both would be 505
    assert fast.percentile(99.5) == pytest.approx(1000, rel=0.003)
    assert fast.max_ms == 1000 and fast.count == 100


def test_warm_up_is_cut_off_and_late_answers_are_no_throughput():
    given = scenario(users=[1])
    tallies = Tallies(Plan(given))
    assert not tallies.add(Done("embed text", 1.0, 1.0, 1.5))  # all in the warm-up
    assert not tallies.add(Done("embed text", 1.0, 1.0, 3.0, items=5))  # answered in the step
    assert tallies.add(Done("embed text", 4.0, 4.5, 5.0))
    assert tallies.add(Done("embed text", 11.0, 11.0, 14.0))  # answered after it
    assert tallies.add(Done("embed picture", 6.0, 6.0, 7.0, error="OverloadedError"))
    assert tallies.add(Done("embed picture", 7.0, 7.0, 7.0, error=NOT_SENT))
    (step,) = figures(given, Plan(given), tallies)
    text, everything = step["kinds"]["embed text"], step["kinds"][ALL]
    assert list(step["kinds"]) == ["embed picture", "embed text", ALL]
    assert (text["requests"], text["items_per_s"]) == (2, 0.6)
    assert text["max_ms"] == 3000
    assert text["p50_ms"] == pytest.approx(1000, rel=0.003)
    assert text["late_p99_ms"] == pytest.approx(500, rel=0.003)
    assert everything["errors"] == {"OverloadedError": 1, NOT_SENT: 1}
    assert everything["error_rate"] == 0.5
    assert step["cut_off_in_all_steps"] == {"answered": 2, "errors": {}}


def test_workers_tallies_merge_to_what_one_process_would_have():
    given = scenario()
    plan = Plan(given)
    whole, master = Tallies(plan), Tallies(plan)
    workers = [Tallies(plan), Tallies(plan)]
    rng = np.random.default_rng(0)
    for n in range(400):
        began = float(rng.uniform(0, 24))
        error = "InternalError" if n % 50 == 0 else ""
        took = float(rng.exponential(0.1))
        done = Done(f"embed {n % 3}", began, began, began + took, 1, 10, 100, error)
        whole.add(done)
        workers[n % 2].add(done)
        if n % 90 == 0:  # reports come in parts
            master.merge(json.loads(json.dumps(workers[n % 2].take())))
    for worker in workers:
        master.merge(worker.take())
    merged, expected = (figures(given, plan, tallies) for tallies in (master, whole))
    for one, other in zip(merged, expected, strict=True):
        for kind, found in other["kinds"].items():
            for key, value in found.items():
                if key not in ("mean_ms", "latencies"):  # sums in another order
                    assert one["kinds"][kind][key] == value, key


def step_of(**values):
    found = {"p50_ms": 10.0, "p95_ms": 20.0, "p99_ms": 40.0, "p99_over_p50": 4.0}
    found |= {"error_rate": 0.0, "items_per_s": 100.0, "started": 9, **values}
    return {"level": 8, "kinds": {ALL: found}}


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        ({}, []),
        ({"max_p99_ms": 40, "max_error_rate": 0, "min_items_per_s": 100}, []),
        ({"max_p99_ms": 39.9}, ["max_p99_ms"]),
        ({"max_p50_ms": 9, "max_p95_ms": 30}, ["max_p50_ms"]),
        ({"max_p99_over_p50": 3}, ["max_p99_over_p50"]),
        ({"min_items_per_s": 101}, ["min_items_per_s"]),
        ({"up_to": 4, "min_items_per_s": 101}, []),
        ({"up_to": 8, "min_items_per_s": 101}, ["min_items_per_s"]),
    ],
)
def test_limits_decide(limits, broken):
    failed = failures(scenario(limits=limits), [step_of()])
    assert [one.limit for one in failed] == broken


def test_errors_break_their_limit_and_the_table_says_where():
    failed = failures(scenario(limits={"max_error_rate": 0.01}), [step_of(error_rate=0.25)])
    assert "8 users" in table_of(failed) and "<= 0.01" in table_of(failed)
    assert "0.25" in table_of(failed)


def test_step_without_an_answer_keeps_no_limit():
    failed = failures(scenario(limits={"max_p99_ms": 1e6}), [step_of(p99_ms=None)])
    assert [one.found for one in failed] == [None] and "nothing" in table_of(failed)


def test_step_in_which_nothing_began_fails_whatever_the_limits():
    given = scenario(limits={"up_to": 1})
    assert [one.limit for one in failures(given, [step_of(started=0)])] == ["min_started"]


@pytest.mark.parametrize(
    ("protocol", "url"),
    [("grpc", "http://a:1"), ("http", "grpc://a:1"), ("gateway", "grpc://a:1"), ("grpc", "a:1")],
)
def test_url_of_another_protocol_is_refused(protocol, url):
    with pytest.raises(InvalidInputError, match=rf"'{url}'.*expected"):
        check_url(protocol, url)


def test_limits_of_shares_go_by_the_share_not_by_the_rate():
    given = open_scenario(limits={"up_to": 0.7, "max_p99_ms": 1})
    assert failures(given, [{**step_of(), "share": 0.9}]) == []
    assert len(failures(given, [{**step_of(), "share": 0.7}])) == 1


@pytest.mark.parametrize("path", sorted(scenarios.FOLDER.glob("*.toml")), ids=lambda p: p.stem)
def test_every_scenario_can_be_read(path):
    given = scenarios.load(path.stem)
    assert given.name == path.stem and given.about.endswith((".", "?"))
    assert given.limits.max_error_rate == 0
    again = scenarios.parse(json.loads(given.model_dump_json(exclude_none=True)), "again")
    assert again == given


def test_scenarios_know_all_workloads_and_mixes():
    for name in WORKLOADS:
        assert scenario(workload=name).workload == name
    for mix in MIXES:
        assert scenario(actions=[{"name": "embed", "mix": mix}]).actions[0].mix == mix


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"user": [1]}, r"no key 'user' .*expected one of .*users"),
        ({"limits": {"max_p999_ms": 1}}, r"'limits.max_p999_ms'.*max_p99_ms"),
        ({"actions": [{"name": "embed", "kind": "x"}]}, r"'actions.0.kind'.*mix"),
        ({"actions": [{"name": "delete"}]}, r"actions.0.name = 'delete': .*'embed'"),
        ({"workload": "huge"}, r"workload = 'huge': .*'demo' or 'small'"),
        ({"users": [0]}, r"users.0 = 0: .*greater than 0"),
        ({"items": 499}, r"items = 499: .*500"),
        ({"rates": [5]}, r"'users' and 'rates'; expected 'users'"),
        ({"users": ()}, r"no key; expected 'users'"),
        ({"loop": "open"}, r"'users'; expected 'rates' or 'shares'"),
        ({"actions": [{"name": "search"}]}, r"set index_items"),
        ({"batch": 8, "actions": [{"name": "ingest"}]}, r"batch = 8.*use 1"),
        ({"warm_up_s": 1}, r"warm_up_s = 1: .*use 1.5 or more"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(values, message):
    with pytest.raises(InvalidInputError, match=message):
        scenario(**values)


def test_missing_key_is_named():
    with pytest.raises(InvalidInputError, match=r"key 'about' is missing"):
        scenarios.parse({key: CLOSED[key] for key in CLOSED if key != "about"}, "test")


def test_unknown_scenario_is_refused_with_those_that_are_there():
    with pytest.raises(InvalidInputError, match=r"'smok'; expected one of .*smoke"):
        scenarios.load("smok")


def test_file_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "bad.toml").write_text("about = ")
    with pytest.raises(InvalidInputError, match=r"cannot read 'bad.toml'"):
        scenarios.load(str(tmp_path / "bad.toml"))


def test_items_are_distinct_and_come_back_as_they_were(tmp_path):
    given = scenario(
        actions=[{"name": "search", "mix": "text"}, {"name": "embed", "mix": "picture"}],
        index_items=12,
    )
    write(given, tmp_path / "items.jsonl")
    found = read(tmp_path / "items.jsonl")
    assert {mix: len(items) for mix, items in found.items()} == {
        "text": 600, "picture": 600, INDEX: 12,
    }  # fmt: skip
    assert found["picture"][:500] == WORKLOADS["demo"].items("picture", 500)
    assert len({item.text for item in found["text"]}) == 600
    assert len({item.images for item in found["picture"][:500]}) == 500


def test_no_item_comes_again_before_all_were_sent_and_workers_share_none():
    items = [Item(str(n)) for n in range(10)]
    parts = [Source(items, worker, 3) for worker in range(3)]
    taken = [[*part.take(2), *part.take(1)] for part in parts]
    assert len({item.text for part in taken for item in part}) == 9
    alone = Source(items)
    assert alone.take(10) == items and alone.take(1) == items[:1]


def test_answers_that_cannot_be_right_are_errors():
    class Wrong(FakeTransport):
        def infer(self, *args):
            rows = super().infer(*args)
            return {**rows, "embedding": rows["embedding"] * 1.5}

    items = [Item("a"), Item("b")]
    right = TritonConnection(Client(transport=FakeTransport()))
    # Two vectors of four numbers, two hashes of eight letters, two numbers of tokens.
    assert right.ask("embed", items) == 2 * 4 * 4 + 2 * 8 + 2 * 4
    with pytest.raises(InternalError, match=r"length 1\.5"):
        TritonConnection(Client(transport=Wrong())).ask("embed", items)


def test_gateways_errors_are_told_apart_by_status():
    assert HttpError(429, b"too much").name == "HTTP 429"


def test_neither_locust_nor_torch_is_imported_by_the_process_that_runs_the_server():
    program = (
        "import benchmarks.load.__main__, benchmarks.load.users.connections, sys;"
        "print(sorted({'locust', 'gevent', 'torch'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr


_LAST_OF_40 = """
import os, runpy, sys
import locust, gevent
runpy.run_path("benchmarks/locustfile.py")
import grpc
def ask(number):
    return grpc.insecure_channel(sys.argv[1]).unary_unary("/a/b")(bytes([number]))
users = []
for number in range(40):
    users.append(gevent.spawn(ask, number))
    gevent.sleep(0.01)
users[-1].join(timeout=10)
print([user.ready() for user in users].count(True), users[-1].value, flush=True)
os._exit(0)
"""


def test_an_answer_is_seen_while_39_older_calls_wait():
    over = threading.Event()

    def answer(request, _):
        if request != bytes([39]):
            over.wait(30)
        return b"seen"

    class Handler(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(64), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        command = [sys.executable, "-c", _LAST_OF_40, f"127.0.0.1:{port}"]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    finally:
        over.set()
        server.stop(None)
    assert ran.stdout.strip() == "1 b'seen'", ran.stdout + ran.stderr


@pytest.mark.parametrize(("name", "task"), [("soak", "ArrivingUser"), ("demo-mixed", "AskingUser")])
def test_users_have_the_one_task_of_their_loop(name, task):
    """In a process of its own: Locust patches what it is imported into."""
    code = (
        "from benchmarks.load import scenario; from benchmarks.load.users.users import users_of\n"
        f"users = users_of(scenario.load({name!r}))\n"
        "print({task.__qualname__ for user in users for task in user.tasks})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str({f"{task}.turn"})
