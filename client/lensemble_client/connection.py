"""One connection to a server: its address, its timeout, tries, and calls of models."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from tqdm import tqdm

from lensemble_client.batches import Numbered, one_by_one, one_each
from lensemble_client.calls import Call
from lensemble_client.retry import Retry, Tries
from lensemble_client.transports.sync_transports import GrpcTransport, HttpTransport, Transport
from lensemble_client.transports.wire import Parameters
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item, Rows
from lensemble_contract.tls import Tls

SCHEMES = ("grpc", "grpcs", "http", "https")
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
        url: `grpc://host:port` or `http://host:port`; `grpcs` and `https` are over TLS.
        timeout_s: Seconds that a call may take with all its tries, unless the call says otherwise.
        retry: How often to try what may do better; `Retry(tries=1)` never tries again.
        tls: Folder of certificates (`tls`): whom to trust, and one's own for mutual TLS.
        transport: Used instead of one made from `url`.

    Raises:
        InvalidInputError: The URL's scheme is none of those, it names no port, or the certificates
            cannot be used.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry = DEFAULT_RETRY,
        tls: Path | str | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._transport = transport or _transport(url, tls)
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

    def run(self, call: Call[T], timeout_s: float | None = None, *, patient: bool = False) -> T:
        """Carries a call of `calls`, with as many tries as it may have and as there is time for.

        Args:
            call: What to run.
            timeout_s: Seconds for all tries together; None takes the connection's.
            patient: Whether to try again until the timeout while it is refused for load.

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        tries = Tries(self._retry, timeout_s, patient=patient)
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
            found = self.run(make([item for _, item in batch]), timeout_s, patient=True)
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
    results: list[T] = []
    with tqdm(desc=label, total=total, unit="item", disable=not progress) as bar:
        for result in stream_batches(batches, work, in_flight):
            results.append(result)
            bar.update(1)
    return results


def stream_batches(
    batches: Iterable[list[tuple[int, E]]],
    work: Callable[[list[tuple[int, E]]], list[T]],
    in_flight: int,
) -> Generator[T]:
    """Works on batches with threads; gives each result once it and all before it are there.

    At most `2 * in_flight` batches are held at a time, and the results that wait for an earlier
    place. Nothing is taken before the first result is asked for; closing the generator waits for
    what is under way, and begins nothing more.

    Args:
        batches: Items with their places: each place from 0 on in one batch.
        work: A batch -> one result for each of its items.
        in_flight: Batches at a time.

    Returns:
        The results in the order of the places.
    """
    in_flight = max(1, in_flight)
    found: dict[int, T] = {}
    due = 0
    running: deque[tuple[list[int], Future[list[T]]]] = deque()

    def take() -> Iterator[T]:
        nonlocal due
        places, future = running.popleft()
        found.update(zip(places, future.result(), strict=True))
        while due in found:
            due += 1
            yield found.pop(due - 1)

    with ThreadPoolExecutor(in_flight) as pool:
        try:
            for batch in batches:
                running.append(([place for place, _ in batch], pool.submit(work, batch)))
                if len(running) >= 2 * in_flight:
                    yield from take()
            while running:
                yield from take()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for what is under way
            raise


def address(url: str) -> tuple[str, str]:
    """Scheme and `host:port` of a server's URL.

    Raises:
        InvalidInputError: The scheme is none of `SCHEMES`, or there is no port.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # not a number, or too large
        port = None
    if parts.scheme not in SCHEMES or not port:
        raise InvalidInputError(
            f"cannot connect to {url!r}; expected grpc://host:port or http://host:port, or grpcs "
            "or https for TLS",
            field="url",
        )
    return parts.scheme, parts.netloc


def certificates(scheme: str, tls: Path | str | None) -> Tls | None:
    """What a connection needs for TLS; None if its scheme is without.

    Raises:
        InvalidInputError: There are certificates, and the scheme is without TLS.
    """
    if scheme in ("grpcs", "https"):
        return Tls.of(tls)
    if tls is not None:
        raise InvalidInputError(f"{scheme}:// is without TLS; expected {scheme}s://", field="url")
    return None


def _transport(url: str, tls: Path | str | None) -> Transport:
    scheme, place = address(url)
    make = GrpcTransport if scheme.startswith("grpc") else HttpTransport
    return make(place, certificates(scheme, tls))
