"""What the real server says of its batches."""

from __future__ import annotations

import re
import time
import urllib.request

import tritonclient.grpc as triton

from lensemble.operations.tritonserver import TritonServer
from lensemble_client import Client


class Passes:
    """Counts the encoder's passes and their items from here on; a look is a pass of one item.

    Args:
        server: Of the real Triton.
    """

    def __init__(self, server: TritonServer) -> None:
        self._server = server
        self._before = self._read()

    def since(self) -> tuple[float, float]:
        """(items, passes) so far."""
        items, passes = (now - then for now, then in zip(self._read(), self._before, strict=True))
        return items, passes

    def _read(self) -> tuple[float, float]:
        with Client(self._server.grpc_url) as client:
            client.status()  # brings metrics up to date
        with urllib.request.urlopen(self._server.metrics_url) as answer:
            found = dict(_SUM.findall(answer.read().decode()))
        return float(found["pass_items"]), float(found["passes"])


SETTLE_S = 10
_SUM = re.compile(r"^lensemble_(pass_items|passes)_total\{.*\} (\S+)$", re.MULTILINE)


class Batches:
    """Counts a model's items and executions from here on.

    Args:
        server: Of the real Triton.
        model: One of its models.
    """

    def __init__(self, server: TritonServer, model: str) -> None:
        self._client = triton.InferenceServerClient(server.grpc_url.split("//")[1])
        self._model = model
        self._before = self._settled()

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

    def _settled(self) -> tuple[int, int]:
        """What is booked once nothing more comes of calls that were answered before."""
        found = self._read()
        for _ in range(50):
            time.sleep(0.2)
            if (now := self._read()) == found:
                break
            found = now
        return found

    def _read(self) -> tuple[int, int]:
        (found,) = self._client.get_inference_statistics(self._model).model_stats
        return found.inference_count, found.execution_count
