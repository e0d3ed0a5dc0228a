"""`python -m lensemble.gateway` runs the gateway in the foreground.

LENSEMBLE_GATEWAY_* environment variables set it up (`lensemble.gateway.settings`).
"""

from __future__ import annotations

import logging
import ssl
import sys
from typing import Any

import uvicorn

from lensemble.gateway.access.connections import limited_connections
from lensemble.gateway.app import Gateway
from lensemble.gateway.observability.request_stats import access_log
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.logs import JsonFormatter
from lensemble_contract.errors import LensembleError
from lensemble_contract.tls import Tls

_KEEP_ALIVE_S = 30
# Seconds that requests in flight have to finish after a signal.
_SHUTDOWN_S = 20


def main() -> int:
    """Serves until a signal ends the process.

    Returns:
        The exit status: 0, or 1 if a setting is unusable (the reason is on standard error).
    """
    _configure_logging()
    try:
        settings = GatewaySettings.from_env()
        app = Gateway(settings)
        tls_options = _uvicorn_tls_options(settings)
    except LensembleError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    uvicorn.run(
        app,
        http=limited_connections(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        log_config=None,  # keeps the handlers of `_configure_logging`
        access_log=False,  # uvicorn's would write the path as the caller typed it
        server_header=False,
        proxy_headers=False,  # any caller can forge them
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        **tls_options,
    )
    return 0


def _configure_logging() -> None:
    """Writes one JSON object per line to standard error.

    Lines of the access log are JSON already, so they get a handler without a formatter.
    """
    json_handler = logging.StreamHandler(sys.stderr)
    json_handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[json_handler])
    access_log.addHandler(logging.StreamHandler(sys.stderr))
    access_log.propagate = False


def _uvicorn_tls_options(settings: GatewaySettings) -> dict[str, Any]:
    """TLS options for uvicorn; empty without TLS.

    Raises:
        InvalidInputError: A certificate is missing or unusable.
    """
    if settings.tls is None:
        return {}
    certificates = Tls.from_folder(settings.tls).check_for_server(mutual=settings.mutual)
    return {
        "ssl_certfile": certificates.certificate,
        "ssl_keyfile": certificates.key,
        "ssl_ca_certs": certificates.authority if settings.mutual else None,
        "ssl_cert_reqs": ssl.CERT_REQUIRED if settings.mutual else ssl.CERT_NONE,
    }


if __name__ == "__main__":
    sys.exit(main())
