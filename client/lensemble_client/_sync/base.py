# Generated from lensemble_client/_async/base.py by `make generate`. Edit that file instead.
"""Sends calls to a server, with retries and timeouts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np

from lensemble_client.batches import (
    TEXTS_PER_REQUEST,
    NumberedItems,
    batches,
    check_count,
    is_worth_splitting,
)
from lensemble_client.calls import Call
from lensemble_client.concurrency.threads import map_batches, run_aside, sleep
from lensemble_client.connection import (
    DEFAULT_CONCURRENCY,
    DEFAULT_RETRY,
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    certificates,
    check_timeout,
    split_url,
)
from lensemble_client.retry import Retry, Tries
from lensemble_client.transports.sync_transports import (
    GrpcTransport,
    HttpTransport,
    Transport,
)
from lensemble_client.transports.wire import Parameters
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item, Rows

T = TypeVar("T")


class BaseClient:
    """Sends calls to one server. `Client` describes the arguments."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry = DEFAULT_RETRY,
        tls: Path | str | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._timeout_s, self._retry = check_timeout(timeout_s), retry
        self._transport = transport or _transport(url, tls)

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
        """Closes the connection."""
        self._transport.close()

    def infer(
        self,
        model: contract.Model,
        rows: Rows,
        parameters: Parameters,
        timeout_s: float | None = None,
    ) -> Rows:
        """Sends one request to a model, and does not try it again.

        Args:
            model: The model to run; its `outputs` are the ones that are requested.
            rows: Inputs of the model.
            parameters: Request parameters.
            timeout_s: Seconds for this request; None takes the client's timeout.

        Returns:
            Outputs of the model.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        return self._transport.infer(model, rows, parameters, self._timeout(timeout_s))

    def run(self, call: Call[T], timeout_s: float | None = None, *, patient: bool = False) -> T:
        """Runs a call from `lensemble_client.calls`, and tries it again while there is time.

        Args:
            call: The call to run.
            timeout_s: Seconds for all tries together; None takes the client's timeout.
            patient: Whether to try again until the timeout as long as the server refuses the call
                because of overload.

        Returns:
            The result of the call.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        tries = Tries(self._retry, self._timeout(timeout_s), patient=patient)
        while True:
            try:
                rows = self._transport.infer(call.model, call.rows, call.parameters, tries.left_s)
                return run_aside(call.read, rows, size=_count_strings(rows))
            except LensembleError as error:
                # `wait_after` raises the error if the call must not be tried again.
                sleep(tries.wait_after(error, writes=call.writes))

    def run_many(
        self,
        items: Iterable[Item],
        make_call: Callable[[list[Item]], Call[list[T]]],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        batch_size: int = TEXTS_PER_REQUEST,
        timeout_s: float | None = None,
        patient: bool = True,
        label: str = "",
        progress: bool = False,
    ) -> list[T | LensembleError]:
        """Runs a call for each batch of items: N items give N results, in the same order.

        Args:
            items: Items to send; they are read while requests run, so this may be a generator.
            make_call: Function from items to the call that gives one result for each of them.
            concurrency: Number of requests that run at the same time.
            batch_size: Texts in one request, 1 to `contract.MAX_BATCH_SIZE`.
            timeout_s: Seconds for each batch of items, with all its retries. Items that are sent
                again alone have this time each.
            patient: As in `run`.
            label: Text before the progress bar.
            progress: Whether to show a progress bar on standard error.

        Returns:
            The result or the error of each item.
        """
        return map_batches(
            batches(items, batch_size),
            lambda batch: self._run_batch(batch, make_call, timeout_s, patient),
            concurrency=concurrency,
            label=label,
            total=len(items) if isinstance(items, Sized) else None,
            progress=progress,
        )

    def _run_batch(
        self,
        batch: NumberedItems,
        make_call: Callable[[list[Item]], Call[list[T]]],
        timeout_s: float | None,
        patient: bool = True,
    ) -> list[T | LensembleError]:
        """Runs a call for a batch. If it fails, it may be run again for each item alone."""
        try:
            call = make_call([item for _, item in batch])
            results = self.run(call, timeout_s, patient=patient)
            return [*check_count(results, batch)]
        except LensembleError as error:
            if not is_worth_splitting(error, batch):
                return [error] * len(batch)
        return [
            result
            for single in batch
            for result in self._run_batch([single], make_call, timeout_s, patient)
        ]

    def _timeout(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else check_timeout(timeout_s)


def _count_strings(rows: Rows) -> int:
    return sum(array.size for array in rows.values() if array.dtype == np.object_)


def _transport(url: str, tls: Path | str | None) -> Transport:
    scheme, host_and_port = split_url(url)
    transport_class = GrpcTransport if scheme.startswith("grpc") else HttpTransport
    return transport_class(host_and_port, certificates(scheme, tls))
