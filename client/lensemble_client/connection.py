"""One connection to a server: its address, its timeout, tries, and calls of models."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from tqdm import tqdm

from lensemble_client import contract
from lensemble_client.batches import Numbered, in_order, one_by_one, one_each
from lensemble_client.calls import Call
from lensemble_client.errors import InvalidInputError, LensembleError
from lensemble_client.items import Item, Rows
from lensemble_client.retry import Retry, Tries
from lensemble_client.shared_transport import SharedMemoryTransport, pool
from lensemble_client.transport import GrpcTransport, HttpTransport, Transport
from lensemble_client.wire import Parameters

DEFAULT_URL = "grpc://127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 60.0
DEFAULT_RETRY = Retry()
IN_FLIGHT = 16
"""Requests under way at a time, of calls that send many."""

T = TypeVar("T")
E = TypeVar("E")


class Connection:
    """Talks to one Lensemble server; a context manager.

    Args:
        url: `grpc://host:port` or `http://host:port`.
        timeout_s: Seconds that a call may take with all its tries, unless the call says otherwise.
        retry: How often to try what may do better; `Retry(tries=1)` never tries again.
        shared_memory: Whether large inputs go through memory shared with a server on this machine
            (`shared_memory`). Where that cannot be, they go over the wire.
        transport: Used instead of one made from `url`.

    Raises:
        InvalidInputError: The URL's scheme is neither `grpc` nor `http`, or it names no port.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry = DEFAULT_RETRY,
        shared_memory: bool = False,
        transport: Transport | None = None,
    ) -> None:
        self._transport = transport if transport is not None else _transport(url, shared_memory)
        self._timeout_s, self._retry = timeout_s, retry

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float | None
    ) -> Rows:
        """Runs a model, once.

        Args:
            model: Which.
            rows: Its inputs.
            parameters: Of the request.
            timeout_s: Seconds for this call; None takes the connection's.

        Returns:
            Its outputs.

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return self._transport.infer(model, rows, parameters, timeout_s)

    def _run(self, call: Call[T], timeout_s: float | None) -> T:
        """Carries a call, with as many tries as it may have and as there is time for."""
        tries = Tries(self._retry, self._timeout_s if timeout_s is None else timeout_s)
        while True:
            try:
                rows = self._transport.infer(call.model, call.rows, call.parameters, tries.left_s)
                return call.read(rows)
            except LensembleError as error:
                time.sleep(tries.wait_after(error, writes=call.writes))

    def _run_items(
        self, batch: Numbered, make: Callable[[list[Item]], Call[list[T]]], timeout_s: float | None
    ) -> list[T | LensembleError]:
        """The result of each item of a batch; if the batch fails, of each by itself."""
        try:
            found = self._run(make([item for _, item in batch]), timeout_s)
            return [*one_each(found, batch)]
        except LensembleError as error:
            if not one_by_one(error, batch):
                return [error] * len(batch)
        return [self._run_items([one], make, timeout_s)[0] for one in batch]


def map_batches(
    batches: Iterable[list[tuple[int, E]]],
    work: Callable[[list[tuple[int, E]]], list[T]],
    *,
    label: str,
    total: int | None,
    in_flight: int,
    progress: bool,
) -> list[T]:
    """Works on batches with threads; takes them as there is room, so there may be any number.

    Args:
        batches: Items with their places.
        work: A batch -> one result for each of its items.
        label: Of the progress bar.
        total: Items, if known.
        in_flight: Batches at a time.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The results in the order of the places.
    """
    found: dict[int, T] = {}
    running: deque[tuple[list[tuple[int, E]], Future[list[T]]]] = deque()
    with (
        ThreadPoolExecutor(max(1, in_flight)) as pool,
        tqdm(desc=label, total=total, unit="item", disable=not progress) as bar,
    ):

        def take() -> None:
            batch, future = running.popleft()
            for (number, _), result in zip(batch, future.result(), strict=True):
                found[number] = result
            bar.update(len(batch))

        try:
            for batch in batches:
                running.append((batch, pool.submit(work, batch)))
                if len(running) >= 2 * in_flight:
                    take()
            while running:
                take()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for what is under way
            raise
    return in_order(found)


def address(url: str) -> tuple[str, str]:
    """Scheme and `host:port` of a server's URL.

    Raises:
        InvalidInputError: The scheme is neither `grpc` nor `http`, or there is no port.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # not a number, or too large
        port = None
    if parts.scheme not in ("grpc", "http") or not port:
        raise InvalidInputError(
            f"cannot connect to {url!r}; expected grpc://host:port or http://host:port",
            field="url",
        )
    return parts.scheme, parts.netloc


def _transport(url: str, shared_memory: bool) -> Transport:
    scheme, place = address(url)
    made: Transport = GrpcTransport(place) if scheme == "grpc" else HttpTransport(place)
    return SharedMemoryTransport(made, pool(scheme, place)) if shared_memory else made
