"""Locust's users: each sends requests over one protocol, times them, and reports them."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gevent
from locust import User, task

from benchmarks.load.plan import Plan
from benchmarks.load.report.tally import NOT_SENT, Done, Tallies
from benchmarks.load.scenario import Action, Scenario
from benchmarks.load.users.arrivals import OpenLoop, Turns, schedule
from benchmarks.load.users.connection import Connection
from benchmarks.load.users.connections import connect
from benchmarks.load.users.corpus import Source, kind_of, size_of
from benchmarks.load.users.gateway import HttpError
from lensemble_client import Item

_IDLE_S = 0.1


class NotSentError(Exception):
    """All places for requests under way were taken when one was due."""


class Part:
    """What the users of one process share: its part of the run.

    Args:
        scenario: What is done; its shares are rates by now.
        url: Of the server.
        items: Mix -> items.
        worker: Which process of the run this is, from 0 on.
        workers: How many there are.

    Attributes:
        plan: The clock's steps.
        tallies: What happened.
        under_way: Requests without an answer so far.
        connections: Of all users; held until the process ends, as to close one may block them all.
    """

    def __init__(
        self, scenario: Scenario, url: str, items: dict[str, list[Item]], worker: int, workers: int
    ) -> None:
        self.scenario, self.url = scenario, url
        self.worker, self.workers = worker, workers
        self.plan = Plan(scenario)
        self.tallies = Tallies(self.plan)
        self.sources = {mix: Source(some, worker, workers) for mix, some in items.items()}
        self.places = max(1, scenario.in_flight // workers)
        self.under_way = 0
        self.connections: list[Connection] = []
        self._began = time.perf_counter()

    def clock(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._began

    @property
    def over(self) -> bool:
        """Whether the last step has ended and all requests have."""
        return self.clock() >= self.plan.end_s and not self.under_way


class TimedUser(User):
    """Base of all users: sends requests and reports them to the tallies and to Locust.

    Attributes:
        part: Of the run, once it began.
        action: What this user does.
        actions: What all users do, by weight: an open loop has one user per process for all.
    """

    abstract = True
    part: ClassVar[Part]
    action: ClassVar[Action]
    actions: ClassVar[tuple[Action, ...]]

    def connection_to(self, url: str, connections: int, timeout_s: float) -> Connection:
        """A connection over this user's protocol."""
        raise NotImplementedError

    def on_start(self) -> None:
        """Connects."""
        scenario = self.part.scenario
        places = 1 if scenario.loop == "closed" else self.part.places
        self._connection = self.connection_to(self.part.url, places, scenario.timeout_s)
        self.part.connections.append(self._connection)

    def send(self, action: Action, intended_s: float) -> None:
        """Sends one request, and reports how it ended. Never raises what the request raised.

        Args:
            action: What to do.
            intended_s: When it was to start, in seconds since the run began.
        """
        part = self.part
        items = part.sources[action.mix].take(part.scenario.batch)
        kind = f"{action.name} {kind_of(items[0]) if len(items) == 1 else action.mix}"
        received, failure = 0, None
        part.under_way += 1
        sent_s = part.clock()
        try:
            received = self._connection.ask(action.name, items)
        except Exception as error:
            failure = error
        finally:
            part.under_way -= 1
        done = Done(
            kind,
            intended_s,
            sent_s,
            part.clock(),
            len(items),
            sum(map(size_of, items)),
            received,
            class_of(failure),
        )
        self._report(done, failure)

    def refuse(self, action: Action, intended_s: float) -> None:
        """Takes note of a request that could not be sent when it was due."""
        now = self.part.clock()
        kind = f"{action.name} {action.mix}"
        done = Done(kind, intended_s, now, now, error=NOT_SENT)
        self._report(done, NotSentError(NOT_SENT))

    def _report(self, done: Done, failure: Exception | None) -> None:
        if self.part.tallies.add(done):
            # A warm-up's requests are kept from Locust's own figures too.
            self.environment.events.request.fire(
                request_type=self.part.scenario.protocol,
                name=done.kind,
                response_time=(done.ended_s - done.intended_s) * 1000,
                response_length=done.received_bytes,
                exception=failure,
                context={},
            )


class AskingUser(TimedUser):
    """Base of a closed loop. Apart from `TimedUser`, as Locust adds up the tasks of all bases."""

    abstract = True

    @task
    def turn(self) -> None:
        """Sends one request, as soon as the last one was answered."""
        part = self.part
        if part.plan.at(now := part.clock()) is None:
            gevent.sleep(_IDLE_S)
        else:
            self.send(self.action, now)


class ArrivingUser(TimedUser):
    """Base of an open loop: one user per process, which is as many callers as are due."""

    abstract = True

    @task
    def turn(self) -> None:
        """Sends this process's part of all arrivals."""
        part = self.part
        if part.clock() < part.plan.end_s:
            loop = OpenLoop(part.places, part.clock, gevent.sleep, gevent.spawn)
            due = schedule(part.plan, part.scenario.arrivals, part.worker, part.workers)
            chosen = Turns(self.actions)
            loop.run(
                due,
                lambda at: self.send(chosen.next(), at),
                lambda at: self.refuse(chosen.next(), at),
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
    """The classes that Locust is to spawn.

    Args:
        scenario: A closed loop has a class per action, which Locust spawns by weight.
    """
    base = _PROTOCOLS[scenario.protocol]
    shared: dict[str, Any] = {"abstract": False, "actions": scenario.actions}
    if scenario.loop == "open":
        name = f"Arriving{base.__name__}"
        return [type(name, (ArrivingUser, base), {**shared, "weight": 1})]
    return [
        type(
            f"{action.name.title()}{action.mix.title()}{base.__name__}{number}",
            (AskingUser, base),
            {**shared, "action": action, "weight": action.weight},
        )
        for number, action in enumerate(scenario.actions)
    ]


def class_of(failure: Exception | None) -> str:
    """Error class for tables; empty if there was none."""
    if failure is None:
        return ""
    return failure.name if isinstance(failure, HttpError) else type(failure).__name__
