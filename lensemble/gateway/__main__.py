"""`python -m lensemble.gateway`: the gateway in the foreground, set by LENSEMBLE_GATEWAY_*."""

from __future__ import annotations

import logging
import ssl
import sys
from typing import Any

import uvicorn

from lensemble.gateway.app import Gateway
from lensemble.gateway.observability import telemetry
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.logs import JsonFormatter
from lensemble_contract.errors import LensembleError
from lensemble_contract.tls import Tls

_KEEP_ALIVE_S = 30
_STOP_S = 20
"""Seconds that requests under way have to finish."""


def main() -> int:
    """Serves until a signal ends it.

    Returns:
        0, or 1 if a setting cannot be used (the reason is on standard error).
    """
    _log()
    try:
        settings = GatewaySettings.from_env()
        app = Gateway(settings)
        options = _tls(settings)
    except LensembleError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        log_config=None,  # to our own
        access_log=False,  # ours has no contents and no paths as typed
        server_header=False,
        proxy_headers=False,  # whoever sends them is whoever calls
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
        **options,
    )
    return 0


def _log() -> None:
    """One JSON object a line on standard error; what the access log writes is one already."""
    handler, access = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    telemetry.log.addHandler(access)
    telemetry.log.propagate = False


def _tls(settings: GatewaySettings) -> dict[str, Any]:
    """Options of uvicorn.

    Raises:
        InvalidInputError: A certificate is missing or cannot be used.
    """
    if settings.tls is None:
        return {}
    own = Tls.of(settings.tls).for_server(mutual=settings.mutual)
    return {
        "ssl_certfile": own.certificate,
        "ssl_keyfile": own.key,
        "ssl_ca_certs": own.authority if settings.mutual else None,
        "ssl_cert_reqs": ssl.CERT_REQUIRED if settings.mutual else ssl.CERT_NONE,
    }


if __name__ == "__main__":
    sys.exit(main())
