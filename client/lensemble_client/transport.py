"""The wire: one small interface over gRPC and over HTTP.

`Client` talks to a `Transport`; tests give it one of their own. Nothing of `tritonclient` is seen
above this file.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lensemble_client import contract
from lensemble_client.errors import DeadlineExceededError, LensembleError, NotReadyError, from_wire
from lensemble_client.items import Rows

_TRITON_DTYPES = {
    "STRING": "BYTES",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "FP32": "FP32",
}

Parameters = Mapping[str, str | int | bool]


class Transport(Protocol):
    """Carries one call to a Triton server. Safe to use from several threads."""

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """Runs a model.

        Args:
            model: What to run; its outputs are all asked for.
            rows: Input name -> array (B, ...).
            parameters: Request parameters.
            timeout_s: Seconds after which the call fails.

        Returns:
            Output name -> array (B, ...).

        Raises:
            LensembleError: Any class of the tree in `errors`.
        """

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the server says that it can serve this model now."""

    def version(self, timeout_s: float) -> str:
        """Name and version of the server, such as `triton 2.51.0`."""

    def close(self) -> None:
        """Closes the connections."""


class GrpcTransport:
    """Triton's gRPC protocol: the faster of the two.

    Args:
        address: `host:port`.
    """

    def __init__(self, address: str) -> None:
        import tritonclient.grpc as triton

        self._triton = triton
        # Answers and pictures may pass gRPC's default of 4 MiB; tritonclient lifts both limits.
        self._client = triton.InferenceServerClient(address)

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        inputs = _inputs(self._triton, model, rows)
        try:
            result = self._client.infer(
                model.name, inputs, parameters=dict(parameters), client_timeout=timeout_s
            )
        except Exception as error:
            raise _translated(error, timeout_s) from error
        return _arrays(result, model.outputs)

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        try:
            return bool(self._client.is_model_ready(model, client_timeout=timeout_s))
        except Exception as error:
            raise _translated(error, timeout_s) from error

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        try:
            metadata = self._client.get_server_metadata(client_timeout=timeout_s)
        except Exception as error:
            raise _translated(error, timeout_s) from error
        return f"{metadata.name} {metadata.version}"

    def close(self) -> None:
        """See `Transport.close`."""
        self._client.close()


class HttpTransport:
    """The KServe v2 protocol over HTTP, tensors in binary.

    Args:
        address: `host:port`, without scheme.
    """

    def __init__(self, address: str) -> None:
        import gevent
        import tritonclient.http as triton

        self._gevent, self._triton = gevent, triton
        self._address = address
        # The HTTP client lives on one thread's event loop, so every thread has its own, which goes
        # with its thread.
        self._local = threading.local()
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()

    def _call(self, method: str, timeout_s: float, *args: Any, **options: Any) -> Any:
        """Calls a method of this thread's client; the timeout is for all of it."""
        client = getattr(self._local, "client", None)
        if client is None:
            # Its own timeouts are for each read and write; a slow answer in pieces passes them.
            client = self._triton.InferenceServerClient(
                self._address, network_timeout=None, connection_timeout=None
            )
            self._local.client = client
            self._clients.add(client)
        try:
            with self._gevent.Timeout(timeout_s, TimeoutError()):
                return getattr(client, method)(*args, **options)
        except Exception as error:
            if isinstance(error, TimeoutError):
                self._local.client = None  # its connection waits for an answer that nobody reads
                client.close()
            raise _translated(error, timeout_s) from error

    def infer(
        self, model: contract.Model, rows: Rows, parameters: Parameters, timeout_s: float
    ) -> Rows:
        """See `Transport.infer`."""
        inputs = _inputs(self._triton, model, rows)
        outputs = [
            self._triton.InferRequestedOutput(tensor.name, binary_data=True)
            for tensor in model.outputs
        ]
        result = self._call(
            "infer", timeout_s, model.name, inputs, outputs=outputs, parameters=dict(parameters)
        )
        return _arrays(result, model.outputs)

    def ready(self, model: str, timeout_s: float) -> bool:
        """See `Transport.ready`."""
        return bool(self._call("is_model_ready", timeout_s, model))

    def version(self, timeout_s: float) -> str:
        """See `Transport.version`."""
        metadata = self._call("get_server_metadata", timeout_s)
        return f"{metadata['name']} {metadata['version']}"

    def close(self) -> None:
        """See `Transport.close`."""
        for client in list(self._clients):
            client.close()


def _inputs(triton: Any, model: contract.Model, rows: Rows) -> list[Any]:
    """The rows as inputs of one of the two client libraries, in binary."""
    inputs = []
    for tensor in model.inputs:
        if tensor.name in rows:
            array = rows[tensor.name]
            value = triton.InferInput(tensor.name, list(array.shape), _TRITON_DTYPES[tensor.dtype])
            value.set_data_from_numpy(array)
            inputs.append(value)
    return inputs


def _arrays(result: Any, outputs: Sequence[contract.Tensor]) -> Rows:
    arrays: Rows = {}
    for tensor in outputs:
        array = result.as_numpy(tensor.name)
        if array is None:
            raise from_wire("INTERNAL", f"the answer has no output {tensor.name!r}")
        arrays[tensor.name] = np.asarray(array)
    return arrays


def _translated(error: Exception, timeout_s: float) -> LensembleError:
    """Maps what the two client libraries raise to the tree of `errors`."""
    from tritonclient.utils import InferenceServerException

    if isinstance(error, InferenceServerException):
        mapped = from_wire(error.status(), error.message() or "no message")
        if isinstance(mapped, DeadlineExceededError):
            return DeadlineExceededError(f"no answer within {timeout_s:g} s")
        return mapped
    if isinstance(error, TimeoutError):
        return DeadlineExceededError(f"no answer within {timeout_s:g} s")
    if isinstance(error, OSError):
        return NotReadyError(f"cannot reach the server: {error}")
    return NotReadyError(f"no Lensemble server answers there ({type(error).__name__}: {error})")
