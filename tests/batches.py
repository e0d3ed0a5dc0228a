"""What the real server says of its batches."""

from __future__ import annotations

import time

import tritonclient.grpc as triton

from lensemble.server import TritonServer

SETTLE_S = 10


class Batches:
    """Counts a model's items and executions from here on.

    Args:
        server: Of the real Triton.
        model: One of its models.
    """

    def __init__(self, server: TritonServer, model: str) -> None:
        self._client = triton.InferenceServerClient(server.grpc_url.split("//")[1])
        self._model = model
        self._before = self._read()

    def since(self, items: int) -> tuple[int, int]:
        """(items, executions) so far, once there are `items` of them.

        Triton books a batch after it has answered it, so a caller that has all its answers may
        be ahead of the statistics: they get `SETTLE_S` to catch up, and no more.
        """
        end = time.monotonic() + SETTLE_S
        while True:
            done, executed = (
                now - then for now, then in zip(self._read(), self._before, strict=True)
            )
            if done >= items or time.monotonic() > end:
                return done, executed
            time.sleep(0.05)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _read(self) -> tuple[int, int]:
        (found,) = self._client.get_inference_statistics(self._model).model_stats
        return found.inference_count, found.execution_count
