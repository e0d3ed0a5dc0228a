"""The embedders that Triton serves, and their devices, read from Triton's metrics."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from lensemble_client import AsyncClient
from lensemble_contract import contract
from lensemble_contract.errors import NotFoundError

# The gauge whose labels describe a model; `lensemble.stages.python_backend` sets it.
INFO_METRIC = "lensemble_model_info"

# Seconds until the metrics are read again.
_REFRESH_S = 5.0
_TIMEOUT_S = 2.0
# Seconds after an answer of Triton during which Triton counts as ready without being asked.
_RECENT_S = 2.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One embedder that Triton serves.

    Attributes:
        name: name of the embedder, one of `contract.EMBEDDERS`.
        labels: its labels in the metrics: `model`, `profile`, `dimension`, `dtype`, `device`,
            `device_name`.
    """

    name: str
    labels: dict[str, str]

    @property
    def model(self) -> str:
        """Name of the checkpoint, such as `Qwen/Qwen3-VL-Embedding-2B`; empty if unknown."""
        return self.labels.get("model", "")

    def has_name(self, name: str) -> bool:
        """Whether a name is the embedder's, or the checkpoint's with or without its owner."""
        return name in (self.name, self.model, self.model.rpartition("/")[2])


class ServedModels:
    """Reads which embedders Triton serves, and remembers them for a few seconds.

    Args:
        triton: client of Triton.
        metrics_url: URL of Triton's metrics.
    """

    def __init__(self, triton: AsyncClient, metrics_url: str) -> None:
        self._triton, self._url = triton, metrics_url
        self._session: aiohttp.ClientSession | None = None
        self._models: list[ServedModel] = []
        self._refresh_at = 0.0
        self._last_answer = -math.inf

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def current(self) -> list[ServedModel]:
        """The embedders that Triton serves; the last known ones if the metrics are unreadable."""
        if time.monotonic() >= self._refresh_at:
            if (models := await self._read_metrics()) is not None:
                self._models = models
            self._refresh_at = time.monotonic() + _REFRESH_S
        return self._models

    def note_answer(self) -> None:
        """Notes that Triton has just answered a call that embeds."""
        self._last_answer = time.monotonic()

    async def ready(self) -> bool:
        """Whether Triton can embed now: it has embedded within the last 2 s, or answers a probe.

        A busy Triton may answer the probe too late. So recent answers count first, or it would be
        taken out of service because of its load.
        """
        if time.monotonic() - self._last_answer < _RECENT_S:
            return True
        return await self._triton.health(_TIMEOUT_S)

    async def resolve(self, name: str | None) -> str:
        """The embedder that a request's `model` means.

        Args:
            name: name of an embedder, or of its checkpoint with or without the owner; None means
                the native embedder.

        Raises:
            NotFoundError: Triton serves no model of that name.
        """
        if name is None or name == contract.NATIVE:
            return contract.NATIVE
        models = await self.current()
        for model in models:
            if model.has_name(name):
                return model.name
        if not models and name in contract.EMBEDDERS:  # the metrics were never readable
            return name
        known_names = [known for model in models for known in (model.name, model.model)]
        raise NotFoundError(
            f"no model {name!r}; expected one of {', '.join(known_names) or contract.NATIVE}",
            field="model",
        )

    async def _read_metrics(self) -> list[ServedModel] | None:
        """The embedders that the metrics name; None if the metrics are unreadable."""
        try:
            if self._session is None:
                timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
                self._session = aiohttp.ClientSession(timeout=timeout)
            async with self._session.get(self._url) as response:
                return parse_metrics(await response.text())
        except (aiohttp.ClientError, OSError, ValueError):
            return None


def parse_metrics(metrics: str) -> list[ServedModel]:
    """The embedders that Triton's metrics name.

    Args:
        metrics: Triton's metrics, in Prometheus's text format.

    Raises:
        ValueError: The text is not in that format.
    """
    embedder_of_triton_model = {
        ensemble.steps[-1]: embedder for embedder, ensemble in contract.EMBEDDERS.items()
    }
    models = []
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples if family.name == INFO_METRIC else ():
            labels = dict(sample.labels)
            embedder = embedder_of_triton_model.get(labels.pop("triton_model", ""))
            if embedder is not None:
                models.append(ServedModel(embedder, labels))
    return models
