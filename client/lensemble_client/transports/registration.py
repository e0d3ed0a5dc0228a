"""Regions of shared memory, told to a server: KServe's system shared memory extension.

These few calls block, and go over connections of their own; `AsyncClient` makes them in a thread.
"""

from __future__ import annotations

import http.client
import json
from http import HTTPStatus
from typing import Any, Protocol

from lensemble_client.transports.wire import said, translated
from lensemble_contract.errors import from_wire

TIMEOUT_S = 2.0


class Registrar(Protocol):
    """Tells a server of regions."""

    def regions(self) -> list[str]:
        """Names of all that are registered.

        Raises:
            LensembleError: The server refuses, or cannot be reached.
        """

    def register(self, name: str, key: str, size: int) -> None:
        """Has the server map one.

        Args:
            name: For requests.
            key: Of the shared memory object, with its slash.
            size: In bytes.

        Raises:
            LensembleError: The server refuses, cannot open it, or cannot be reached.
        """

    def unregister(self, name: str) -> None:
        """Has the server unmap one; that it does not know it is no error.

        Raises:
            LensembleError: The server refuses, as it reads there now, or cannot be reached.
        """


class GrpcRegistrar:
    """Over gRPC.

    Args:
        address: `host:port`.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def regions(self) -> list[str]:
        """See `Registrar.regions`."""
        return list(self._call("get_system_shared_memory_status").regions)

    def register(self, name: str, key: str, size: int) -> None:
        """See `Registrar.register`."""
        self._call("register_system_shared_memory", name, key, size)

    def unregister(self, name: str) -> None:
        """See `Registrar.unregister`."""
        self._call("unregister_system_shared_memory", name)

    def _call(self, method: str, *arguments: str | int) -> Any:
        import tritonclient.grpc as triton

        try:
            with triton.InferenceServerClient(self._address) as client:
                return getattr(client, method)(*arguments, client_timeout=TIMEOUT_S)
        except Exception as error:
            raise translated(error, TIMEOUT_S) from error


class HttpRegistrar:
    """Over HTTP.

    Args:
        address: `host:port`.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def regions(self) -> list[str]:
        """See `Registrar.regions`."""
        answer = self._call("GET", "status")
        try:
            return [region["name"] for region in json.loads(answer)]
        except (ValueError, KeyError, TypeError) as error:
            raise translated(error, TIMEOUT_S) from error

    def register(self, name: str, key: str, size: int) -> None:
        """See `Registrar.register`."""
        self._call("POST", f"region/{name}/register", {"key": key, "offset": 0, "byte_size": size})

    def unregister(self, name: str) -> None:
        """See `Registrar.unregister`."""
        self._call("POST", f"region/{name}/unregister", {})

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        try:
            connection.request(
                method,
                f"/v2/systemsharedmemory/{path}",
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            answer = response.read()
        except Exception as error:
            raise translated(error, TIMEOUT_S) from error
        finally:
            connection.close()
        if response.status != HTTPStatus.OK:
            raise from_wire(str(response.status), said(answer))
        return answer
