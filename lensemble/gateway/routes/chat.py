"""`POST /v1/chat/completions` and `POST /qwen3/chat/completions`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from lensemble.gateway.backends import Backends
from lensemble.gateway.disconnects import cancel_on_disconnect
from lensemble.gateway.inputs.json_bodies import BodyReader
from lensemble.gateway.observability.request_stats import RequestStats


def router(backends: Backends, body_reader: BodyReader) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["chat"])

    @routes.post("/v1/chat/completions")
    @routes.post("/qwen3/chat/completions")
    async def chat(request: Request) -> Response:
        """Forwards a request to the chat server, unchanged."""
        fields = await body_reader.read_object(request)
        chat_request = backends.chat_server.with_model(fields)
        with RequestStats.of(request).timed("chat"):
            return await cancel_on_disconnect(request, backends.chat_server.forward(chat_request))

    return routes
