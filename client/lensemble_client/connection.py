"""Defaults of a connection to a server, and the parts of its URL."""

from __future__ import annotations

import math
from numbers import Real
from pathlib import Path
from urllib.parse import urlsplit

from lensemble_client.retry import Retry
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.texts import quoted
from lensemble_contract.tls import Tls

SCHEMES = ("grpc", "grpcs", "http", "https")
DEFAULT_URL = "grpc://127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 60.0
DEFAULT_RETRY = Retry()
# Requests of one call with many items that run at the same time.
DEFAULT_CONCURRENCY = 16


def split_url(url: str) -> tuple[str, str]:
    """Splits the URL of a server into its scheme and `host:port`.

    Raises:
        InvalidInputError: The scheme is not one of `SCHEMES`, or there is no port.
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


def check_timeout(timeout_s: object) -> float:
    """Checks a timeout, and returns it.

    Args:
        timeout_s: Seconds; infinity waits without end.

    Raises:
        InvalidInputError: It is not a number above 0.
    """
    seconds = math.nan
    if isinstance(timeout_s, Real) and not isinstance(timeout_s, bool):
        seconds = float(timeout_s)
    if not seconds > 0:
        raise InvalidInputError(
            f"{quoted(timeout_s)}; expected seconds, more than 0", field="timeout_s"
        )
    return seconds


def certificates(scheme: str, tls: Path | str | None) -> Tls | None:
    """Returns the certificates of a connection; None if its scheme does not use TLS.

    Args:
        scheme: One of `SCHEMES`.
        tls: Folder of certificates, if any.

    Raises:
        InvalidInputError: There are certificates but the scheme does not use TLS, or the folder
            cannot be used.
    """
    if scheme in ("grpcs", "https"):
        return Tls.from_folder(tls)
    if tls is not None:
        raise InvalidInputError(
            f"{scheme}:// does not use the certificates in {str(tls)!r}; expected {scheme}s://",
            field="url",
        )
    return None
