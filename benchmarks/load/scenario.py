"""Scenarios: load tests as data, in `benchmarks/scenarios/<name>.toml`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError

FOLDER = Path(__file__).parents[1] / "scenarios"
# Smallest number of different items of a mix: repeated items might be answered from a cache.
MIN_ITEMS = 500
# Locust adds users once a second, so a step has all its users only after this many seconds.
_MIN_WARM_UP_S = 1.5

Share = Annotated[float, Field(gt=0, le=2)]


class _Strict(BaseModel):
    """Base of a scenario and its parts. Unknown keys are rejected, so a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Action(_Strict):
    """One kind of request.

    Attributes:
        name: What is called: `embed`, `search` or `ingest`.
        mix: Kinds of items, a key of `workloads.MIXES`.
        weight: In a closed loop, the users are divided among the actions in proportion to their
            weights; in an open loop, the requests are.
    """

    name: Literal["embed", "search", "ingest"]
    mix: Literal["text", "picture", "fused", "mixed"] = "mixed"
    weight: PositiveInt = 1


class Peak(_Strict):
    """A short closed loop that measures how much the server can do.

    Attributes:
        users: Number of users that send requests without a pause.
        seconds: Measured seconds.
    """

    users: PositiveInt = 32
    seconds: PositiveFloat = 15.0


class Soak(_Strict):
    """Limits on growth during a long run.

    Attributes:
        settle_s: Seconds at the start that are not judged; of a short run, at most a sixth.
        growth: Largest share by which a figure may grow after that.
        slack_mib: Growth of memory in MiB that is not counted as a leak.
        slack_files: Growth of open files that is not counted as a leak.
        burst_share: Rate of a burst before the clock starts, as a multiple of the peak; 0 sends
            none. A scenario without `shares` has no peak and therefore no burst. If the rate is
            above the peak, `in_flight` requests wait at the same time. Just as many wait if the
            machine pauses for a second during the run. A process never gives back the memory that
            it needed for them, so without a burst beforehand, such a pause would look like growth.
        burst_s: Seconds of the burst.
    """

    settle_s: NonNegativeFloat = 600.0
    growth: NonNegativeFloat = 0.02
    slack_mib: NonNegativeFloat = 4.0
    slack_files: NonNegativeInt = 4
    burst_share: NonNegativeFloat = 0.0
    burst_s: PositiveFloat = 10.0


class Limits(_Strict):
    """Limits that a step must meet, over all kinds of requests; None sets no limit.

    Attributes:
        up_to: Steps with more users, a higher rate or a higher share are reported but not judged.
        max_p50_ms: Largest median latency.
        max_p95_ms: Largest 95th percentile of the latency.
        max_p99_ms: Largest 99th percentile of the latency.
        max_p99_over_p50: Largest ratio of the 99th percentile to the median.
        max_error_rate: Largest share of failed requests, 0 to 1.
        min_items_per_s: Smallest number of answered items per second.
    """

    up_to: PositiveFloat | None = None
    max_p50_ms: PositiveFloat | None = None
    max_p95_ms: PositiveFloat | None = None
    max_p99_ms: PositiveFloat | None = None
    max_p99_over_p50: PositiveFloat | None = None
    max_error_rate: NonNegativeFloat | None = None
    min_items_per_s: PositiveFloat | None = None


class Scenario(_Strict):
    """One load test.

    Attributes:
        name: Name of the scenario's file.
        about: One sentence for the report.
        workload: Checkpoint and items, a key of `workloads.WORKLOADS`.
        protocol: Triton's gRPC or HTTP, or the gateway in front of it.
        loop: `closed`: each user sends the next request once the last one was answered. `open`:
            requests start at times that were fixed beforehand, whether or not the server keeps up.
        actions: Kinds of requests.
        users: Steps of a closed loop: numbers of users.
        rates: Steps of an open loop: requests per second.
        shares: Steps of an open loop instead of rates: shares of the peak, which is measured first.
        arrivals: Whether requests of an open loop are evenly spaced (`constant`) or come at random
            times at the same rate (`poisson`).
        in_flight: Largest number of requests in flight in an open loop, over all workers; a request
            that is due while that many are in flight counts as an error.
        seconds: Measured seconds of each step.
        warm_up_s: Seconds at the beginning of each step, before those, that are part of no figure.
        rest_s: Seconds without new requests after a step, so that requests that still wait do not
            burden the next step.
        batch: Number of items in one request.
        items: Number of different items of each mix; none is repeated before all were sent.
        index_items: Number of items that are stored before the clock starts, for searches to find.
        timeout_s: Largest number of seconds that one request may take.
        watch_s: Seconds between two samples of the server.
        peak: How the peak is measured, for `shares`.
        soak: Limits on growth, for a long run.
        limits: Limits that decide between pass and fail.
    """

    name: str = ""
    about: str
    workload: Literal["demo", "small"]
    protocol: Literal["grpc", "http", "gateway"] = "grpc"
    loop: Literal["closed", "open"] = "closed"
    actions: tuple[Action, ...] = Field(min_length=1)
    users: tuple[PositiveInt, ...] = ()
    rates: tuple[PositiveFloat, ...] = ()
    shares: tuple[Share, ...] = ()
    arrivals: Literal["constant", "poisson"] = "poisson"
    in_flight: PositiveInt = 256
    seconds: PositiveFloat = 20.0
    warm_up_s: PositiveFloat = 3.0
    rest_s: NonNegativeFloat = 0.0
    batch: PositiveInt = Field(1, le=contract.MAX_BATCH_SIZE)
    items: int = Field(600, ge=MIN_ITEMS)
    index_items: NonNegativeInt = 0
    timeout_s: PositiveFloat = 30.0
    watch_s: PositiveFloat = 0.5
    peak: Peak = Peak()
    soak: Soak | None = None
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        expected = ("users",) if self.loop == "closed" else ("rates", "shares")
        present = [name for name in ("users", "rates", "shares") if getattr(self, name)]
        if len(present) != 1 or present[0] not in expected:
            raise ValueError(
                f"steps are given by {' and '.join(map(repr, present)) or 'no key'}; expected "
                f"{' or '.join(map(repr, expected))}, because loop = {self.loop!r}"
            )
        if len(self.users) > 1 and self.warm_up_s < _MIN_WARM_UP_S:
            raise ValueError(
                f"warm_up_s = {self.warm_up_s:g}: Locust adds users once a second, so a step would "
                f"be measured with the users of the step before; use {_MIN_WARM_UP_S:g} or more"
            )
        if self.batch > 1 and any(action.name == "ingest" for action in self.actions):
            raise ValueError(f"batch = {self.batch}: 'ingest' stores one item per request; use 1")
        if any(action.name == "search" for action in self.actions) and not self.index_items:
            raise ValueError("'search' needs items to find; set index_items")
        return self

    @property
    def writes(self) -> bool:
        """Whether the server needs an index that accepts writes."""
        return self.index_items > 0 or any(action.name == "ingest" for action in self.actions)

    @property
    def levels(self) -> tuple[float, ...]:
        """Users, requests per second, or shares of the peak, one number per step."""
        return self.users or self.rates or self.shares

    def changed(self, **values: Any) -> Scenario:
        """Returns a copy with some values replaced, which is checked again.

        Args:
            **values: Keys to replace, with their values.

        Raises:
            InvalidInputError: A value is not valid.
        """
        return parse_scenario({**self.model_dump(), **values}, self.name)


def find_scenario(name: str) -> Path:
    """Returns the file of a scenario.

    Args:
        name: Name of a file in `benchmarks/scenarios`, or the path of a TOML or JSON file.

    Raises:
        InvalidInputError: There is no such file.
    """
    known = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    if name in known:
        return known[name]
    if name.endswith((".toml", ".json")) and Path(name).is_file():
        return Path(name)
    raise InvalidInputError(
        f"no scenario {name!r}; expected one of {', '.join(known)}, or the path of a TOML file",
        field="scenario",
    )


def load_scenario(name: str) -> Scenario:
    """Reads a scenario.

    Args:
        name: Name of a file in `benchmarks/scenarios`, or the path of a TOML or JSON file.

    Raises:
        InvalidInputError: There is no such file, it is not TOML or JSON, or a key or value is not
            valid.
    """
    path = find_scenario(name)
    try:
        text = path.read_text()
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, OSError) as error:
        raise InvalidInputError(f"cannot read {path.name!r}: {error}", field="scenario") from error
    return parse_scenario({"name": path.stem, **content}, path.name)


def parse_scenario(content: dict[str, Any], name: str) -> Scenario:
    """Makes a scenario from its keys.

    Args:
        content: Keys and values.
        name: Name of the scenario in error messages.

    Raises:
        InvalidInputError: Some keys or values are not valid; the message names all of them.
    """
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        messages = [_message(details) for details in error.errors(include_url=False)]
        raise InvalidInputError(f"{name!r}: {'; '.join(messages)}", field="scenario") from None


def _message(error: Any) -> str:
    """Returns one of Pydantic's errors in this project's words."""
    *parents, last = error["loc"] or ("",)
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known: Any = Scenario
        for parent in parents:
            if isinstance(parent, str):
                known = {"actions": Action, "peak": Peak, "soak": Soak, "limits": Limits}[parent]
        return f"no key {last!r} (at {path!r}); expected one of {', '.join(known.model_fields)}"
    if error["type"] == "missing":
        return f"key {path!r} is missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    if not path:
        return str(message)
    return f"{path} = {error['input']!r}: {message[:1].lower()}{message[1:]}"
