"""`python -m lensemble.gateway`: the gateway in the foreground, set by LENSEMBLE_GATEWAY_*."""

from __future__ import annotations

import logging
import sys

import uvicorn

from lensemble.gateway.app import Gateway
from lensemble.gateway.config import GatewaySettings
from lensemble_client.errors import LensembleError

_KEEP_ALIVE_S = 30
_STOP_S = 20
"""Seconds that requests under way have to finish."""


def main() -> int:
    """Serves until a signal ends it.

    Returns:
        0, or 1 if a setting cannot be used (the reason is on standard error).
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        settings = GatewaySettings.from_env()
        app = Gateway(settings)
    except LensembleError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,  # ours has no contents and no paths as typed
        server_header=False,
        proxy_headers=False,  # whoever sends them is whoever calls
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
