"""The synchronous client."""

from __future__ import annotations

from lensemble_client._sync.health import HealthCalls
from lensemble_client._sync.search import SearchCalls
from lensemble_client._sync.store import StoreCalls
from lensemble_client.connection import DEFAULT_TIMEOUT_S, DEFAULT_URL
from lensemble_client.results import Embedding, Hit, Status, Stored

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "DEFAULT_URL",
    "Client",
    "Embedding",
    "Hit",
    "Status",
    "Stored",
]


class Client(SearchCalls, StoreCalls, HealthCalls):
    """Talks to one Lensemble server; a context manager. Several threads may share one client.

    Args:
        url: `grpc://host:port` or `http://host:port`; `grpcs` and `https` use TLS.
        timeout_s: Seconds that a call may take, all its tries together, unless the call has a
            timeout of its own.
        retry: How often to try a call again that may succeed then; `Retry(tries=1)` never does.
        tls: Folder of certificates (`lensemble_contract.tls`): whom to trust, and the client's own
            certificate for mutual TLS.
        transport: Used instead of one made from `url`.

    Raises:
        InvalidInputError: The URL has an unknown scheme or no port, or the certificates cannot be
            used.
    """
