"""The server that one writes first: FastAPI, Transformers, one forward pass per request.

python -m benchmarks.peers.naive CHECKPOINT PORT [--dtype bf16]

Prompt, pooling and pictures' sizes are the profile's, so its vectors are those of the served model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from fastapi import FastAPI

from benchmarks.common.reference import Reference
from benchmarks.peers import wire
from benchmarks.peers.peer import Peer, named

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def peer(dtype: str = "fp32") -> Peer:
    """This server in a precision, `fp32` or `bf16`."""
    module = "benchmarks.peers.naive"
    command = (sys.executable, "-m", module, "{checkpoint}", "{port}", "--dtype", dtype)
    return Peer(named("naive", dtype), dtype, "json", command)


def make_app(checkpoint: Path, dtype: str = "fp32") -> FastAPI:
    """The application, with its model loaded."""
    reference = Reference(checkpoint, DTYPES[dtype])
    reference.size = wire.pixel_limits(checkpoint)
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    # `async`, so one at a time: forward passes in threads beside each other share the same cores.
    @app.post("/embed")
    async def embed(request: wire.Request) -> wire.Answer:
        vector = reference.embed(reference.inputs(request.text, request.picture()))[0]
        return wire.Answer(embedding=vector.tolist())

    return app


if __name__ == "__main__":
    wire.run(make_app)
