"""`GET /health`, `GET /v1/models` and `GET /metrics`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from lensemble.gateway.access.body_limits import BodyLimits
from lensemble.gateway.backends import Backends
from lensemble.gateway.observability.metrics import Metrics
from lensemble.gateway.responses import HealthResponse, ModelsResponse
from lensemble.gateway.served_models import ServedModel
from lensemble_contract import contract


def router(backends: Backends, metrics: Metrics, limits: BodyLimits) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["service"])

    @routes.get("/health", response_model=HealthResponse)
    async def health() -> Response:
        """Whether requests can be served now, and on which device."""
        ready = not limits.is_stuck and await backends.served_models.ready()
        labels_of = {model.name: model.labels for model in await backends.served_models.current()}
        labels = labels_of.get(contract.NATIVE, {}) if ready else {}
        content = {
            "status": "ok" if ready else "unavailable",
            "model_loaded": ready,
            "device": labels.get("device"),
            "gpu_name": labels.get("device_name") or None,
        }
        return JSONResponse(content, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)

    @routes.get("/v1/models", response_model=ModelsResponse)
    async def models() -> Response:
        """The embedders that can be named as `model`."""
        entries = [_entry(model) for model in await backends.served_models.current()]
        return JSONResponse({"object": "list", "data": entries})

    @routes.get("/metrics")
    async def metrics_text() -> Response:
        """The gateway's own metrics, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return routes


def _entry(model: ServedModel) -> dict[str, Any]:
    dimension = model.labels.get("dimension", "")
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "lensemble",
        "model": model.model,
        "profile": model.labels.get("profile", ""),
        "dimension": int(dimension) if dimension.isdecimal() else None,
        "dtype": model.labels.get("dtype", ""),
        "device": model.labels.get("device", ""),
    }
