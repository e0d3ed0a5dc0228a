"""The server that one writes first: FastAPI, Transformers, one forward pass per request.

python -m benchmarks.naive_server CHECKPOINT PORT
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel

from benchmarks.reference import Reference


class Request(BaseModel):
    """One item: text, a base64 picture, or both."""

    text: str | None = None
    image: str | None = None


def make_app(checkpoint: Path) -> FastAPI:
    """The application, with its model loaded."""
    reference = Reference(checkpoint)
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/embed")
    async def embed(request: Request) -> dict[str, list[float]]:
        image = None
        if request.image is not None:
            image = Image.open(io.BytesIO(base64.b64decode(request.image))).convert("RGB")
        vector = reference.embed(reference.inputs(request.text, image))[0]
        return {"embedding": vector.tolist()}

    return app


if __name__ == "__main__":
    uvicorn.run(
        make_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning"
    )
