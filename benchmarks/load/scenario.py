"""What a load test does, as data: `benchmarks/scenarios/<name>.toml`."""

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
DISTINCT = 500
"""Fewest different items of a mix: what repeats could be answered from some cache."""
_NEXT_STEP_S = 1.5

Share = Annotated[float, Field(gt=0, le=2)]


class _Strict(BaseModel):
    """A key that is not known is refused: a misspelt one would pass in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Action(_Strict):
    """One thing that callers do.

    Attributes:
        name: Which call.
        mix: Kinds of items, a key of `workload.MIXES`.
        weight: Its share: of the users in a closed loop, of the arrivals in an open one.
    """

    name: Literal["embed", "search", "ingest"]
    mix: Literal["text", "picture", "fused", "mixed"] = "mixed"
    weight: PositiveInt = 1


class Peak(_Strict):
    """A short closed loop that finds what the server can do.

    Attributes:
        users: That ask without a pause.
        seconds: Measured.
    """

    users: PositiveInt = 32
    seconds: PositiveFloat = 15.0


class Soak(_Strict):
    """What must not grow during a long run.

    Attributes:
        settle_s: Seconds from the start that are not judged; of a short run, a sixth at most.
        growth: Largest share by which a figure may grow after that.
        slack_mib: Growth of memory that is no leak, in MiB.
        slack_files: The same of open files.
        burst_share: Of the peak's rate, before the clock starts: more than the server can do, so
            that `in_flight` requests wait at once. A process keeps the most memory that it ever
            needed, and a machine that stands still for a second piles up as many; met beforehand,
            that is no growth. 0 leaves the burst out, and so does a scenario without `shares`,
            which has no peak.
        burst_s: How long.
    """

    settle_s: NonNegativeFloat = 600.0
    growth: NonNegativeFloat = 0.02
    slack_mib: NonNegativeFloat = 4.0
    slack_files: NonNegativeInt = 4
    burst_share: NonNegativeFloat = 0.0
    burst_s: PositiveFloat = 10.0


class Limits(_Strict):
    """What a step must keep, over all kinds of requests; None does not ask.

    Attributes:
        up_to: Steps above this many users, or this rate or share, are reported, not judged.
        max_p50_ms: Latency, as are the next two.
        max_p95_ms: See above.
        max_p99_ms: See above.
        max_p99_over_p50: How far the slow ones may be from the usual one.
        max_error_rate: Errors of all that was to be sent, 0 to 1.
        min_items_per_s: Answered.
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
        name: Of its file.
        about: One sentence for the report.
        workload: Checkpoint and items, a key of `workload.WORKLOADS`.
        protocol: Triton's gRPC or HTTP, or the gateway in front of it.
        loop: `closed`: each user asks again once it is answered. `open`: requests start at times
            that were fixed beforehand, whether or not the server keeps up.
        actions: What is done.
        users: Steps of a closed loop.
        rates: Steps of an open loop, in requests per second.
        shares: Instead of rates: parts of the peak, which is measured first.
        arrivals: Of an open loop: evenly spaced, or at random with that mean.
        in_flight: Requests under way at most in an open loop, of all workers together; one that is
            due while all are taken counts as an error.
        seconds: Measured, of each step.
        warm_up_s: Seconds before those, in every step, that no figure contains.
        rest_s: Seconds after a step without new requests, so that what waits does not burden the
            next one.
        batch: Items in one request.
        items: Different ones of each mix; none comes again before all were sent.
        index_items: Stored before the clock starts, so that searches have something to find.
        timeout_s: Seconds that one request may take.
        watch_s: Seconds between two looks at the server.
        peak: How `shares` finds the peak.
        soak: For a long run.
        limits: That decide between pass and fail.
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
    items: int = Field(600, ge=DISTINCT)
    index_items: NonNegativeInt = 0
    timeout_s: PositiveFloat = 30.0
    watch_s: PositiveFloat = 0.5
    peak: Peak = Peak()
    soak: Soak | None = None
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wanted = ("users",) if self.loop == "closed" else ("rates", "shares")
        given = [name for name in ("users", "rates", "shares") if getattr(self, name)]
        if len(given) != 1 or given[0] not in wanted:
            raise ValueError(
                f"steps are given by {' and '.join(map(repr, given)) or 'no key'}; expected "
                f"{' or '.join(map(repr, wanted))}, one of them, as loop = {self.loop!r}"
            )
        if len(self.users) > 1 and self.warm_up_s < _NEXT_STEP_S:
            raise ValueError(
                f"warm_up_s = {self.warm_up_s:g}: Locust adds users once a second, so that a step "
                f"would be measured with those of the last one; use {_NEXT_STEP_S:g} or more"
            )
        if self.batch > 1 and any(action.name == "ingest" for action in self.actions):
            raise ValueError(f"batch = {self.batch}: 'ingest' stores one item per request; use 1")
        if any(action.name == "search" for action in self.actions) and not self.index_items:
            raise ValueError("'search' needs something to find; set index_items")
        return self

    @property
    def writes(self) -> bool:
        """Whether the server needs an index that can be written to."""
        return self.index_items > 0 or any(action.name == "ingest" for action in self.actions)

    @property
    def levels(self) -> tuple[float, ...]:
        """Of each step: users, or requests per second, or shares of the peak."""
        return self.users or self.rates or self.shares

    def changed(self, **values: Any) -> Scenario:
        """The same with other values, checked again.

        Raises:
            InvalidInputError: They do not fit.
        """
        return parse({**self.model_dump(), **values}, self.name)


def find(name: str) -> Path:
    """The file of a scenario.

    Args:
        name: Of a file in `benchmarks/scenarios`, or a path to a TOML or JSON file.

    Raises:
        InvalidInputError: There is none.
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


def load(name: str) -> Scenario:
    """Reads a scenario, by name or path.

    Raises:
        InvalidInputError: There is none, it is not TOML or JSON, or a key or value does not fit.
    """
    path = find(name)
    try:
        text = path.read_text()
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, OSError) as error:
        raise InvalidInputError(f"cannot read {path.name!r}: {error}", field="scenario") from error
    return parse({"name": path.stem, **content}, path.name)


def parse(content: dict[str, Any], name: str) -> Scenario:
    """A scenario from its keys.

    Args:
        content: Keys and values.
        name: For messages.

    Raises:
        InvalidInputError: A key or value does not fit; all that do not are named.
    """
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        faults = [_fault(one) for one in error.errors(include_url=False)]
        raise InvalidInputError(f"{name!r}: {'; '.join(faults)}", field="scenario") from None


def _fault(error: Any) -> str:
    *parents, last = error["loc"] or ("",)
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known: Any = Scenario
        for parent in parents:
            if isinstance(parent, str):
                known = {"actions": Action, "peak": Peak, "soak": Soak, "limits": Limits}[parent]
        return f"no key {last!r} (at {where!r}); expected one of {', '.join(known.model_fields)}"
    if error["type"] == "missing":
        return f"key {where!r} is missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    if not where:
        return str(message)
    return f"{where} = {error['input']!r}: {message[:1].lower()}{message[1:]}"
