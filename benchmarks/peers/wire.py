"""The HTTP API of the peers that are written here: one item in, its vector as JSON numbers out."""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel

from lensemble.operations.tritonserver import LOOPBACK
from lensemble.profile import Profile


class Request(BaseModel):
    """One item: text, a base64 picture, or both."""

    text: str | None = None
    image: str | None = None

    def picture(self) -> Image.Image | None:
        """The picture, decoded."""
        if self.image is None:
            return None
        return Image.open(io.BytesIO(base64.b64decode(self.image))).convert("RGB")


class Answer(BaseModel):
    """Its vector (D,), unit length."""

    embedding: list[float]


def pixel_limits(checkpoint: Path) -> dict[str, int]:
    """The profile's least and most pixels, by the names that Transformers gives these areas."""
    image = Profile.load(checkpoint).image
    return {"shortest_edge": image.min_pixels, "longest_edge": image.max_pixels}


def run(make_app: Callable[[Path, str], FastAPI]) -> None:
    """Serves the application that the command line asks for, until it is stopped.

    Args:
        make_app: Checkpoint and precision in, application out.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path, help="folder of the serving checkpoint")
    parser.add_argument("port", type=int)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    app = make_app(given.checkpoint, given.dtype)
    uvicorn.run(app, host=LOOPBACK, port=given.port, log_level="warning")
