"""Reads from a real server how requests were batched."""

from __future__ import annotations

import re
import urllib.request

import tritonclient.grpc as triton

from lensemble.operations.tritonserver import TritonServer
from lensemble_client import Client
from tests.waiting import until


class Passes:
    """Counts the encoder's passes and items since its creation.

    Each reading pings the encoder, which adds one pass of one item.

    Args:
        server: the real server.
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
            client.status()  # updates the metrics
        with urllib.request.urlopen(self._server.metrics_url) as answer:
            sums = dict(_SUM.findall(answer.read().decode()))
        return float(sums["pass_items"]), float(sums["passes"])


_SUM = re.compile(r"^lensemble_(pass_items|passes)_total\{.*\} (\S+)$", re.MULTILINE)


class Batches:
    """Counts a model's items and executions since its creation.

    Triton counts a batch after it has answered it. So the counts may include a last batch that was
    answered just before the creation.

    Args:
        server: the real server.
        model: name of one of its models.
    """

    def __init__(self, server: TritonServer, model: str) -> None:
        self._client = triton.InferenceServerClient(server.grpc_url.split("//")[1])
        self._model = model
        self._before = self._read()

    def since(self, items: int) -> tuple[int, int]:
        """(items, executions) so far; waits until at least so many items are counted."""

        def counts() -> tuple[int, int]:
            done, executed = self._read()
            return done - self._before[0], executed - self._before[1]

        until(lambda: counts()[0] >= items, f"{items} items")
        return counts()

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _read(self) -> tuple[int, int]:
        (model,) = self._client.get_inference_statistics(self._model).model_stats
        return model.inference_count, model.execution_count
