"""The obvious server: FastAPI and Transformers, one forward pass per request.

python -m benchmarks.peers.naive_server CHECKPOINT PORT [--dtype bf16]

It uses the profile's prompt, pooling and picture sizes, so its vectors are those of the served
model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from fastapi import FastAPI

from benchmarks.common.transformers_reference import TransformersReference
from benchmarks.peers import http_api
from benchmarks.peers.peer import Peer, name_with_dtype

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def peer(dtype: str = "fp32") -> Peer:
    """Returns this server in a precision, `fp32` or `bf16`."""
    module = "benchmarks.peers.naive_server"
    command = (sys.executable, "-m", module, "{checkpoint}", "{port}", "--dtype", dtype)
    return Peer(name_with_dtype("naive", dtype), dtype, "json", command)


def make_app(checkpoint: Path, dtype: str = "fp32") -> FastAPI:
    """Returns the application, with its model loaded."""
    reference = TransformersReference(checkpoint, DTYPES[dtype])
    reference.size = http_api.pixel_limits(checkpoint)
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    # `async` serves one request at a time: concurrent forward passes would share the same cores.
    @app.post("/embed")
    async def embed(request: http_api.HttpRequest) -> http_api.HttpAnswer:
        vector = reference.embed(reference.inputs(request.text, request.picture()))[0]
        return http_api.HttpAnswer(embedding=vector.tolist())

    return app


if __name__ == "__main__":
    http_api.run_server(make_app)
