"""What serves: embedders by name, and the device they run on, from Triton's own metrics."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from lensemble_client import AsyncClient
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError, NotFoundError

INFO_METRIC = "lensemble_model_info"
"""Gauge of `lensemble.stages.python_backend`; its labels say what a model is."""

_TRUST_S = 5.0
"""Seconds that what was read is taken for true."""
_TIMEOUT_S = 2.0
_RECENT_S = 2.0
"""Seconds for which an answer shows that Triton serves."""


@dataclass(frozen=True, slots=True)
class About:
    """One embedder that serves.

    Attributes:
        name: By which a request chooses it, of `contract.EMBEDDERS`.
        labels: What it says of itself: `model`, `profile`, `dimension`, `dtype`, `device`,
            `device_name`.
    """

    name: str
    labels: dict[str, str]


class Models:
    """Knows what serves.

    Args:
        client: Of Triton.
        metrics_url: Of Triton's metrics.
    """

    def __init__(self, client: AsyncClient, metrics_url: str) -> None:
        self._client, self._url = client, metrics_url
        self._session: aiohttp.ClientSession | None = None
        self._known: list[About] = []
        self._until = 0.0
        self._heard = -math.inf

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def serving(self) -> list[About]:
        """The embedders that serve; what was known last if Triton does not say."""
        if time.monotonic() >= self._until:
            if (found := await self._read()) is not None:
                self._known = found
            self._until = time.monotonic() + _TRUST_S
        return self._known

    def heard(self) -> None:
        """Notes that Triton has just answered a call that embeds."""
        self._heard = time.monotonic()

    async def ready(self) -> bool:
        """Whether Triton can embed now: it has lately, or it does so when asked.

        A busy one may not answer a probe in time, and would be taken out of service for it.
        """
        if time.monotonic() - self._heard < _RECENT_S:
            return True
        return await self._client.health(_TIMEOUT_S)

    async def named(self, name: str | None) -> str:
        """The embedder that a request's `model` means.

        Args:
            name: An embedder's name, or the model it serves with or without its owner; None is the
                native one.

        Raises:
            NotFoundError: Nothing serves under that name.
        """
        if name is None or name == contract.NATIVE:
            return contract.NATIVE
        serving = await self.serving()
        for about in serving:
            model = about.labels.get("model", "")
            if name in (about.name, model, model.rpartition("/")[2]):
                return about.name
        if not serving and name in contract.EMBEDDERS:
            return name
        there = [said for about in serving for said in (about.name, about.labels.get("model", ""))]
        raise NotFoundError(
            f"no model {name!r}; there are {', '.join(there) or contract.NATIVE}", field="model"
        )

    async def _read(self) -> list[About] | None:
        try:
            if self._session is None:
                timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
                self._session = aiohttp.ClientSession(timeout=timeout)
            async with self._session.get(self._url) as answer:
                text = await answer.text()
            families = list(text_string_to_metric_families(text))
        except (aiohttp.ClientError, OSError, ValueError, LensembleError):
            return None
        return [
            About(name, labels)
            for family in families
            if family.name == INFO_METRIC
            for sample in family.samples
            for name, labels in _embedders(sample.labels)
        ]


def _embedders(labels: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """The embedders whose vectors a Triton model makes."""
    rest = dict(labels)
    triton_model = rest.pop("triton_model", "")
    return [
        (name, rest)
        for name, ensemble in contract.EMBEDDERS.items()
        if ensemble.steps[-1] == triton_model
    ]


def described(about: About) -> dict[str, Any]:
    """An embedder as `GET /v1/models` shows it."""
    labels = about.labels
    dimension = labels.get("dimension", "")
    return {
        "id": about.name,
        "object": "model",
        "created": 0,
        "owned_by": "lensemble",
        "model": labels.get("model", ""),
        "profile": labels.get("profile", ""),
        "dimension": int(dimension) if dimension.isdecimal() else None,
        "dtype": labels.get("dtype", ""),
        "device": labels.get("device", ""),
    }
