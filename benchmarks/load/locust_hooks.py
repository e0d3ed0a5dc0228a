"""The hooks of `benchmarks/locustfile.py` in Locust: options, users, steps and the result."""

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

from benchmarks.load.report.limits import find_failures, format_failures
from benchmarks.load.report.step_summary import summarize_steps
from benchmarks.load.scenario import Scenario, load_scenario
from benchmarks.load.users.item_file import read_items
from benchmarks.load.users.locust_users import TimedUser, WorkerRun, users_of
from benchmarks.load.users.triton_connection import check_url
from lensemble_client import Item
from lensemble_contract.errors import InvalidInputError

# Key of this module's part of the messages from workers to the master.
_MESSAGE_KEY = "lensemble_load"


class LocustHooks:
    """The hooks of one Locust process: a worker, the master, or both in one."""

    def __init__(self) -> None:
        self.scenario: Scenario | None = None
        self.worker_run: WorkerRun | None = None
        self.began = 0.0
        self._items: dict[str, list[Item]] = {}
        self._over: dict[str, bool] = {}  # worker -> whether it has finished

    def add_options(self, parser: Any) -> None:
        """Adds the command-line options."""
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
            help="file that `python -m benchmarks.load.users.item_file` wrote; made if not given",
        )
        group.add_argument(
            "--result-file", default="", env_var="LOAD_RESULT", help="file to write the steps to"
        )

    def init(self, environment: Environment) -> None:
        """Reads the scenario, and makes the items if there is no file of them."""
        options: Any = environment.parsed_options
        self.scenario = load_scenario(options.scenario)
        if self.scenario.shares:
            raise InvalidInputError(
                f"{self.scenario.name!r} has shares of a peak, which plain Locust does not "
                "measure; use `python -m benchmarks.load`, or a scenario with rates",
                field="scenario",
            )
        if not options.worker:  # the master tells workers the URL
            check_url(self.scenario.protocol, environment.host or "")
        environment.user_classes[:] = users_of(self.scenario)
        # Locust must wait until the slowest request is answered or has timed out.
        environment.stop_timeout = max(environment.stop_timeout, self.scenario.timeout_s + 5)
        if not isinstance(environment.runner, MasterRunner):
            file = options.items_file
            self._items = read_items(Path(file)) if file else _make_items(options.scenario)

    def begin(self, environment: Environment) -> None:
        """Starts the clock; a worker starts it one message later than the master."""
        assert self.scenario is not None
        options: Any = environment.parsed_options
        runner = environment.runner
        worker = max(0, runner.worker_index) if isinstance(runner, WorkerRunner) else 0
        workers = options.expect_workers if isinstance(runner, WorkerRunner) else 1
        url = environment.host or ""
        self.began = time.time()
        self.worker_run = TimedUser.worker_run = WorkerRun(
            self.scenario, url, self._items, worker, workers
        )

    def tick(self, workers: int) -> tuple[int, float] | None:
        """Returns the number of users now and how many to add per second; None ends the run.

        The run ends once every process has its last answer: Locust's master waits only half a
        second for the last report of a worker that it stopped, and would lose the slowest requests.
        """
        assert self.scenario is not None
        worker_run = self.worker_run
        if worker_run is not None:
            late = worker_run.clock() - worker_run.schedule.end_s
            over = sum(self._over.values()) >= workers if workers else worker_run.over
            if late > 0 and (over or late > self.scenario.timeout_s + 10):
                return None
        if self.scenario.loop == "open":
            return max(1, workers), max(1, workers)
        if worker_run is None:
            users = int(self.scenario.users[0])
        else:
            users = worker_run.schedule.users_at(worker_run.clock())
        return users, users

    def send_report(self, data: dict[str, Any]) -> None:
        """Adds to a worker's message what happened since its last one."""
        if self.worker_run is not None:
            # Read `over` first: otherwise a message that says so could lack the last answer.
            over = self.worker_run.over
            data[_MESSAGE_KEY] = {"over": over, "statistics": self.worker_run.statistics.take()}

    def receive_report(self, client_id: str, data: dict[str, Any]) -> None:
        """Adds a worker's message to the master's statistics."""
        if (message := data.get(_MESSAGE_KEY)) is not None and self.worker_run is not None:
            self._over[client_id] = message["over"]
            self.worker_run.statistics.merge(message["statistics"])

    def end(self, environment: Environment) -> None:
        """Writes the result, checks the limits and sets the exit status; workers do nothing."""
        if isinstance(environment.runner, WorkerRunner) or self.worker_run is None:
            return
        assert self.scenario is not None
        options: Any = environment.parsed_options
        steps = summarize_steps(self.scenario, self.worker_run.schedule, self.worker_run.statistics)
        if options.result_file:
            finished = sum(self._over.values()) if self._over else int(self.worker_run.over)
            content = {"began": self.began, "finished": finished, "steps": steps}
            Path(options.result_file).write_text(json.dumps(content))
        failed = find_failures(self.scenario, steps)
        if failed:
            print(format_failures(failed), file=sys.stderr)
        environment.process_exit_code = 1 if failed else 0


def exit_at_once(environment: Environment, exit_code: int) -> None:
    """Makes this process end without closing its gRPC channels, once everything is written.

    In a process that gevent has patched, one of eight gRPC channels hangs for ever when it is
    closed, even after its last call has ended.
    """
    # The master has no channels, and must end its workers.
    if not isinstance(environment.runner, MasterRunner):
        atexit.register(_end_now, exit_code)


def _end_now(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _make_items(scenario: str) -> dict[str, list[Item]]:
    """Makes the items of a scenario, given by name or path, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="lensemble-load-") as folder:
        file = Path(folder) / "items.jsonl"
        command = [sys.executable, "-m", "benchmarks.load.users.item_file", scenario, str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read_items(file)


hooks = LocustHooks()


class Steps(LoadTestShape):
    """The steps of the scenario."""

    def tick(self) -> tuple[int, float] | None:
        """See `LocustHooks.tick`."""
        runner = self.runner
        workers = runner.worker_count if isinstance(runner, MasterRunner) else 0
        return hooks.tick(workers)


def _init(environment: Environment, **_: Any) -> None:
    try:
        hooks.init(environment)
    except InvalidInputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    on_quit: Any = environment.events.quit
    on_quit.add_listener(lambda exit_code, **_: exit_at_once(environment, exit_code))


def register_hooks() -> None:
    """Registers the hooks; must be called once, when the locustfile is loaded."""
    # Locust passes keyword arguments, and newer versions may pass more.
    listeners: list[tuple[Any, Callable[..., None]]] = [
        (events.init_command_line_parser, lambda parser, **_: hooks.add_options(parser)),
        (events.init, _init),
        (events.test_start, lambda environment, **_: hooks.begin(environment)),
        (events.report_to_master, lambda client_id, data, **_: hooks.send_report(data)),
        (events.worker_report, lambda client_id, data, **_: hooks.receive_report(client_id, data)),
        (events.quitting, lambda environment, **_: hooks.end(environment)),
    ]
    for event, listener in listeners:
        event.add_listener(listener)
