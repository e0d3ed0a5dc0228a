"""What `benchmarks/locustfile.py` hooks into Locust: options, users, the steps, the result."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from benchmarks.load.report.limits import failures, table_of
from benchmarks.load.report.step_figures import figures
from benchmarks.load.scenario import Scenario, load
from benchmarks.load.users.connections import check_url
from benchmarks.load.users.corpus import read
from benchmarks.load.users.users import Part, TimedUser, users_of
from lensemble_client import Item
from lensemble_contract.errors import InvalidInputError

_STATE = "lensemble_load"


class Wiring:
    """One Locust process: a worker, the master, or both in one."""

    def __init__(self) -> None:
        self.scenario: Scenario | None = None
        self.part: Part | None = None
        self.began = 0.0
        self._items: dict[str, list[Item]] = {}
        self._over: dict[str, bool] = {}

    def options(self, parser: Any) -> None:
        """Adds the options."""
        group = parser.add_argument_group("Lensemble")
        group.add_argument(
            "--scenario",
            default="smoke",
            env_var="LOAD_SCENARIO",
            help="name or path of a scenario; the same for master and workers",
        )
        group.add_argument(
            "--items-file",
            default="",
            env_var="LOAD_ITEMS",
            help="what `python -m benchmarks.load.users.corpus` wrote; made if not given",
        )
        group.add_argument(
            "--result-file", default="", env_var="LOAD_RESULT", help="where to write the tallies"
        )

    def init(self, environment: Environment) -> None:
        """Reads the scenario, and makes the items if nobody has."""
        options: Any = environment.parsed_options
        self.scenario = load(options.scenario)
        if self.scenario.shares:
            raise InvalidInputError(
                f"{self.scenario.name!r} has shares of a peak, which plain Locust does not "
                "measure; use `python -m benchmarks.load`, or a scenario with rates",
                field="scenario",
            )
        if not options.worker:  # a worker hears it from the master
            check_url(self.scenario.protocol, environment.host or "")
        environment.user_classes[:] = users_of(self.scenario)
        # It holds requests back until the slowest is answered or given up.
        environment.stop_timeout = max(environment.stop_timeout, self.scenario.timeout_s + 5)
        if not isinstance(environment.runner, MasterRunner):
            given = options.items_file
            self._items = read(Path(given)) if given else _made(options.scenario)

    def begin(self, environment: Environment) -> None:
        """The clock starts; on a worker, a message later than on the master."""
        assert self.scenario is not None
        options: Any = environment.parsed_options
        runner = environment.runner
        worker = max(0, runner.worker_index) if isinstance(runner, WorkerRunner) else 0
        workers = options.expect_workers if isinstance(runner, WorkerRunner) else 1
        url = environment.host or ""
        self.began = time.time()
        self.part = TimedUser.part = Part(self.scenario, url, self._items, worker, workers)

    def tick(self, workers: int) -> tuple[int, float] | None:
        """Users that are to be there now, and how many to add per second; None at the end.

        The end comes once every process has its last answer: Locust's master waits half a second
        for the last report of a worker that it told to stop, and would lose the slowest requests.
        """
        assert self.scenario is not None
        part = self.part
        if part is not None:
            late = part.clock() - part.plan.end_s
            over = sum(self._over.values()) >= workers if workers else part.over
            if late > 0 and (over or late > self.scenario.timeout_s + 10):
                return None
        if self.scenario.loop == "open":
            return max(1, workers), max(1, workers)
        users = part.plan.users_at(part.clock()) if part is not None else self._first_users
        return users, users

    @property
    def _first_users(self) -> int:
        assert self.scenario is not None
        return int(self.scenario.users[0])

    def report(self, data: dict[str, Any]) -> None:
        """A worker tells the master what came since the last time."""
        if self.part is not None:
            # In this order: else the last answer could be missing from a report that says "over".
            data[_STATE] = {"over": self.part.over, "tallies": self.part.tallies.take()}

    def reported(self, client_id: str, data: dict[str, Any]) -> None:
        """The master takes it in."""
        if (said := data.get(_STATE)) is not None and self.part is not None:
            self._over[client_id] = said["over"]
            self.part.tallies.merge(said["tallies"])

    def end(self, environment: Environment) -> None:
        """Master or single process: writes the result, judges it, sets the exit status."""
        if isinstance(environment.runner, WorkerRunner) or self.part is None:
            return
        assert self.scenario is not None
        options: Any = environment.parsed_options
        found = figures(self.scenario, self.part.plan, self.part.tallies)
        if options.result_file:
            finished = sum(self._over.values()) if self._over else int(self.part.over)
            content = {"began": self.began, "finished": finished, "steps": found}
            Path(options.result_file).write_text(json.dumps(content))
        failed = failures(self.scenario, found)
        if failed:
            print(table_of(failed), file=sys.stderr)
        environment.process_exit_code = 1 if failed else 0


def leave(environment: Environment, exit_code: int) -> None:
    """Has this process end at once, when all is written.

    A gRPC channel that is closed by a process which gevent has patched hangs for ever one time in
    eight, even after its last call ended.
    """
    if not isinstance(environment.runner, MasterRunner):  # it has no channels, but workers to end
        atexit.register(_end_now, exit_code)


def _end_now(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _made(scenario: str) -> dict[str, list[Item]]:
    """Items of a scenario, by name or path; a process of its own makes them."""
    with tempfile.TemporaryDirectory(prefix="lensemble-load-") as folder:
        file = Path(folder) / "items.jsonl"
        command = [sys.executable, "-m", "benchmarks.load.users.corpus", scenario, str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read(file)


wiring = Wiring()


class Steps(LoadTestShape):
    """The steps of the scenario."""

    def tick(self) -> tuple[int, float] | None:
        """See `Wiring.tick`."""
        runner = self.runner
        workers = runner.worker_count if isinstance(runner, MasterRunner) else 0
        return wiring.tick(workers)


def _init(environment: Environment, **_: Any) -> None:
    try:
        wiring.init(environment)
    except InvalidInputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    on_quit: Any = environment.events.quit
    on_quit.add_listener(lambda exit_code, **_: leave(environment, exit_code))


def listen() -> None:
    """Hooks everything in; to be called once, when the locustfile is loaded."""
    # Locust calls with keywords of its own choice, and may add more.
    hooks: list[tuple[Any, Callable[..., None]]] = [
        (events.init_command_line_parser, lambda parser, **_: wiring.options(parser)),
        (events.init, _init),
        (events.test_start, lambda environment, **_: wiring.begin(environment)),
        (events.report_to_master, lambda client_id, data, **_: wiring.report(data)),
        (events.worker_report, lambda client_id, data, **_: wiring.reported(client_id, data)),
        (events.quitting, lambda environment, **_: wiring.end(environment)),
    ]
    for event, hook in hooks:
        event.add_listener(hook)
