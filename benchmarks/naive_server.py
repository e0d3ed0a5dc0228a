"""The server that one writes first: FastAPI, Transformers, one forward pass per request.

python -m benchmarks.naive_server CHECKPOINT PORT
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel
from transformers import AutoProcessor, Qwen3VLModel

INSTRUCTION = "Represent the user's input."


class Request(BaseModel):
    """One item: text, a base64 picture, or both."""

    text: str | None = None
    image: str | None = None


class Reference:
    """Processor and model as Transformers gives them, one item at a time.

    Args:
        checkpoint: Folder in Hugging Face format.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.model = Qwen3VLModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        # The official embedder's limits, so that both servers see pictures of one size.
        self.size = {"shortest_edge": 4096, "longest_edge": 1_843_200}

    def inputs(self, text: str | None, image: Image.Image | None) -> dict[str, torch.Tensor]:
        """What the processor makes of one item."""
        content: list[dict[str, Any]] = []
        if image is not None:
            content.append({"type": "image", "image": image})
        if text is not None:
            content.append({"type": "text", "text": text})
        messages = [
            {"role": "system", "content": [{"type": "text", "text": INSTRUCTION}]},
            {"role": "user", "content": content},
        ]
        prompt = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return dict(
            self.processor(
                text=[prompt],
                images=[image] if image is not None else None,
                images_kwargs={"size": self.size},
                return_tensors="pt",
            )
        )

    @torch.inference_mode()
    def embed(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Last-token vectors (B, D) of right-padded inputs."""
        hidden = self.model(**inputs, use_cache=False).last_hidden_state
        last = inputs["attention_mask"].sum(dim=1) - 1
        return torch.nn.functional.normalize(hidden[torch.arange(len(last)), last], dim=-1)


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
