"""The synchronous client."""

from __future__ import annotations

from lensemble_client._sync.health import HealthCalls
from lensemble_client._sync.search import SearchCalls
from lensemble_client._sync.store import StoreCalls

__all__ = ["Client"]


class Client(SearchCalls, StoreCalls, HealthCalls):
    """Talks to one Lensemble server; a context manager. Several threads may share one client.

    Args:
        url: `grpc://host:port` or `http://host:port`; `grpcs` and `https` use TLS.
        timeout_s: Seconds that a call may take, all its tries together. A call may have a timeout
            of its own.
        retry: How failed calls are tried again; `Retry(tries=1)` never tries again.
        tls: Folder of certificates (`lensemble_contract.tls`): the authorities to trust, and for
            mutual TLS the client's own certificate.
        transport: Used instead of one made from `url`.

    Raises:
        InvalidInputError: The URL has an unknown scheme or no port, or the certificates cannot be
            used.
    """
