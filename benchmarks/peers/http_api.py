"""The HTTP API of the peers that are implemented here: one item in, its vector as JSON out."""

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

from lensemble.operations.ports import LOOPBACK
from lensemble.profile import Profile


class HttpRequest(BaseModel):
    """A request: one item with a text, a base64 picture, or both."""

    text: str | None = None
    image: str | None = None

    def picture(self) -> Image.Image | None:
        """Returns the decoded picture; None if there is none."""
        if self.image is None:
            return None
        return Image.open(io.BytesIO(base64.b64decode(self.image))).convert("RGB")


class HttpAnswer(BaseModel):
    """An answer: the item's vector (D,), unit length."""

    embedding: list[float]


def pixel_limits(checkpoint: Path) -> dict[str, int]:
    """Returns the profile's pixel limits under the names that Transformers uses for them."""
    image = Profile.load(checkpoint).image
    return {"shortest_edge": image.min_pixels, "longest_edge": image.max_pixels}


def run_server(make_app: Callable[[Path, str], FastAPI]) -> None:
    """Serves an application with the checkpoint and precision of the command line.

    Args:
        make_app: Function from a checkpoint's folder and a precision to the application.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path, help="folder of the serving checkpoint")
    parser.add_argument("port", type=int)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    app = make_app(options.checkpoint, options.dtype)
    uvicorn.run(app, host=LOOPBACK, port=options.port, log_level="warning")
