"""Locust's users: each sends requests over one protocol, measures and reports them."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gevent
from locust import User, task

from benchmarks.load.load_schedule import LoadSchedule
from benchmarks.load.report.request_statistics import NOT_SENT, CompletedRequest, StatisticsByStep
from benchmarks.load.scenario import Action, Scenario
from benchmarks.load.users.arrivals import OpenLoop, WeightedRoundRobin, arrival_times
from benchmarks.load.users.connection import Connection
from benchmarks.load.users.gateway_connection import HttpError
from benchmarks.load.users.item_file import ItemCycle, kind_of, size_of
from benchmarks.load.users.triton_connection import connect
from lensemble_client import Item

_IDLE_S = 0.1


class NotSentError(Exception):
    """A request was due while `in_flight` requests were in flight."""


class WorkerRun:
    """State that the users of one worker process share.

    Args:
        scenario: Scenario, with rates instead of shares.
        url: URL of the server.
        items: Mix -> items.
        worker: Number of this process, from 0 on.
        workers: Number of processes.

    Attributes:
        schedule: The steps of the run.
        statistics: Statistics of the requests.
        in_flight: Number of requests that were sent and not yet answered.
        connections: Connections of all users. They are kept until the process ends, because closing
            one may block all others.
    """

    def __init__(
        self, scenario: Scenario, url: str, items: dict[str, list[Item]], worker: int, workers: int
    ) -> None:
        self.scenario, self.url = scenario, url
        self.worker, self.workers = worker, workers
        self.schedule = LoadSchedule(scenario)
        self.statistics = StatisticsByStep(self.schedule)
        self.items = {mix: ItemCycle(of_mix, worker, workers) for mix, of_mix in items.items()}
        self.max_in_flight = max(1, scenario.in_flight // workers)
        self.in_flight = 0
        self.connections: list[Connection] = []
        self._began = time.perf_counter()

    def clock(self) -> float:
        """Returns the seconds since the run began."""
        return time.perf_counter() - self._began

    @property
    def over(self) -> bool:
        """Whether the last step and all its requests have ended."""
        return self.clock() >= self.schedule.end_s and not self.in_flight


class TimedUser(User):
    """Base of all users: sends requests and reports them to the statistics and to Locust.

    Attributes:
        worker_run: State that the users of this process share; set when the run begins.
        action: Action of this user, in a closed loop.
        actions: All actions with their weights; in an open loop one user per process does all.
    """

    abstract = True
    worker_run: ClassVar[WorkerRun]
    action: ClassVar[Action]
    actions: ClassVar[tuple[Action, ...]]

    def connection_to(self, url: str, connections: int, timeout_s: float) -> Connection:
        """Returns a connection over this user's protocol."""
        raise NotImplementedError

    def on_start(self) -> None:
        """Connects to the server."""
        scenario = self.worker_run.scenario
        count = 1 if scenario.loop == "closed" else self.worker_run.max_in_flight
        self._connection = self.connection_to(self.worker_run.url, count, scenario.timeout_s)
        self.worker_run.connections.append(self._connection)

    def send(self, action: Action, intended_s: float) -> None:
        """Sends one request and reports how it ended. The request's own errors are not raised.

        Args:
            action: Action to do.
            intended_s: When the request was due, in seconds since the run began.
        """
        worker_run = self.worker_run
        items = worker_run.items[action.mix].take(worker_run.scenario.batch)
        kind = f"{action.name} {kind_of(items[0]) if len(items) == 1 else action.mix}"
        received, failure = 0, None
        worker_run.in_flight += 1
        sent_s = worker_run.clock()
        try:
            received = self._connection.send(action.name, items)
        except Exception as error:
            failure = error
        finally:
            worker_run.in_flight -= 1
        request = CompletedRequest(
            kind,
            intended_s,
            sent_s,
            worker_run.clock(),
            len(items),
            sum(map(size_of, items)),
            received,
            error_class(failure),
        )
        self._report(request, failure)

    def refuse(self, action: Action, intended_s: float) -> None:
        """Records a request that could not be sent when it was due."""
        now = self.worker_run.clock()
        kind = f"{action.name} {action.mix}"
        request = CompletedRequest(kind, intended_s, now, now, error=NOT_SENT)
        self._report(request, NotSentError(NOT_SENT))

    def _report(self, request: CompletedRequest, failure: Exception | None) -> None:
        if self.worker_run.statistics.add(request):
            # Requests of a warm-up are left out of Locust's own figures too.
            self.environment.events.request.fire(
                request_type=self.worker_run.scenario.protocol,
                name=request.kind,
                response_time=(request.ended_s - request.intended_s) * 1000,
                response_length=request.received_bytes,
                exception=failure,
                context={},
            )


class ClosedLoopUser(TimedUser):
    """Base of a closed loop.

    It is not `TimedUser` itself because Locust adds up the tasks of all base classes.
    """

    abstract = True

    @task
    def turn(self) -> None:
        """Sends one request as soon as the last one was answered."""
        worker_run = self.worker_run
        if worker_run.schedule.at(now := worker_run.clock()) is None:
            gevent.sleep(_IDLE_S)
        else:
            self.send(self.action, now)


class OpenLoopUser(TimedUser):
    """Base of an open loop: one user per process stands for all callers."""

    abstract = True

    @task
    def turn(self) -> None:
        """Sends this process's share of all requests."""
        worker_run = self.worker_run
        if worker_run.clock() < worker_run.schedule.end_s:
            loop = OpenLoop(worker_run.max_in_flight, worker_run.clock, gevent.sleep, gevent.spawn)
            due = arrival_times(
                worker_run.schedule,
                worker_run.scenario.arrivals,
                worker_run.worker,
                worker_run.workers,
            )
            actions = WeightedRoundRobin(self.actions)
            loop.run(
                due,
                lambda at: self.send(actions.next(), at),
                lambda at: self.refuse(actions.next(), at),
            )
        gevent.sleep(_IDLE_S)


class GrpcUser(TimedUser):
    """Triton's gRPC, through `lensemble_client.Client`."""

    abstract = True

    def connection_to(self, url: str, connections: int, timeout_s: float) -> Connection:
        """See `TimedUser.connection_to`."""
        return connect("grpc", url, connections, timeout_s)


class HttpUser(TimedUser):
    """Triton's HTTP, through `lensemble_client.Client` on greenlets."""

    abstract = True

    def connection_to(self, url: str, connections: int, timeout_s: float) -> Connection:
        """See `TimedUser.connection_to`."""
        return connect("http", url, connections, timeout_s)


class GatewayUser(TimedUser):
    """The gateway: POST /v1/embeddings, /v1/search, /v1/items."""

    abstract = True

    def connection_to(self, url: str, connections: int, timeout_s: float) -> Connection:
        """See `TimedUser.connection_to`."""
        return connect("gateway", url, connections, timeout_s)


_PROTOCOLS: dict[str, type[TimedUser]] = {
    "grpc": GrpcUser,
    "http": HttpUser,
    "gateway": GatewayUser,
}


def users_of(scenario: Scenario) -> list[type[User]]:
    """Returns the user classes that Locust is to spawn.

    Args:
        scenario: Scenario; a closed loop has one class per action, which Locust spawns by weight.
    """
    base = _PROTOCOLS[scenario.protocol]
    shared: dict[str, Any] = {"abstract": False, "actions": scenario.actions}
    if scenario.loop == "open":
        name = f"OpenLoop{base.__name__}"
        return [type(name, (OpenLoopUser, base), {**shared, "weight": 1})]
    return [
        type(
            f"{action.name.title()}{action.mix.title()}{base.__name__}{number}",
            (ClosedLoopUser, base),
            {**shared, "action": action, "weight": action.weight},
        )
        for number, action in enumerate(scenario.actions)
    ]


def error_class(failure: Exception | None) -> str:
    """Returns the class of an error in tables; empty if there was no error."""
    if failure is None:
        return ""
    return failure.name if isinstance(failure, HttpError) else type(failure).__name__
