"""sentence-transformers' own support for this architecture, behind FastAPI, requests gathered.

python -m benchmarks.peers.sentence_transformers_server CHECKPOINT PORT [--dtype bf16]

While one padded batch is computed, the next requests wait; all that wait, up to `MOST`, are the
next batch. `encode` sorts them by length and pads each of its batches to the longest.

Left to itself the library makes other vectors of a checkpoint that was not saved by it (cosine
0.45 to 0.97 to the reference's): it renders no system prompt, and not the assistant's header that
the last token follows. And an item's parts go into the prompt in the order of the dictionary, so
the picture has to stand first. With `prompt`, `add_generation_prompt` and that order they agree.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray

from benchmarks.common.reference import INSTRUCTION
from benchmarks.peers import wire
from benchmarks.peers.naive import DTYPES
from benchmarks.peers.peer import Peer, named

MOST = 32
"""Items in one gathered batch."""

Vectors = NDArray[np.float32]


def peer(dtype: str = "fp32") -> Peer:
    """This server in a precision, `fp32` or `bf16`."""
    module = "benchmarks.peers.sentence_transformers_server"
    command = (sys.executable, "-m", module, "{checkpoint}", "{port}", "--dtype", dtype)
    return Peer(named("sentence_transformers", dtype), dtype, "json", command)


def load(checkpoint: Path, dtype: str) -> Any:
    """The library's model, set up as the reference: prompt, last token, unit length, sizes."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(
        str(checkpoint),
        model_kwargs={"dtype": DTYPES[dtype], "attn_implementation": "sdpa"},
        processing_kwargs={
            "chat_template": {"add_generation_prompt": True},
            "image": {"size": wire.pixel_limits(checkpoint)},
        },
    )
    pooling = Pooling(transformer.get_embedding_dimension(), "lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def encode(model: Any, requests: list[wire.Request]) -> Vectors:
    """Vectors (B, D) of requests, in their order."""
    given = []
    for request in requests:
        parts = {"image": request.picture(), "text": request.text}
        given.append({name: part for name, part in parts.items() if part is not None})
    vectors = model.encode(
        given, batch_size=MOST, prompt=INSTRUCTION, show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(vectors, np.float32)


def make_app(checkpoint: Path, dtype: str = "fp32") -> FastAPI:
    """The application, with its model loaded."""
    model = load(checkpoint, dtype)
    waiting: asyncio.Queue[tuple[wire.Request, asyncio.Future[Vectors]]] = asyncio.Queue()

    async def gather() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            while True:
                batch = [await waiting.get()]
                while len(batch) < MOST and not waiting.empty():
                    batch.append(waiting.get_nowait())
                requests = [request for request, _ in batch]
                try:
                    vectors = await loop.run_in_executor(pool, encode, model, requests)
                except Exception as error:  # theirs, not this loop's
                    for _, answer in batch:
                        answer.set_exception(error)
                    continue
                for (_, answer), vector in zip(batch, vectors, strict=True):
                    answer.set_result(vector)

    @asynccontextmanager
    async def gathering(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(gather())
        yield
        task.cancel()

    app = FastAPI(lifespan=gathering)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/embed")
    async def embed(request: wire.Request) -> wire.Answer:
        answer: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        waiting.put_nowait((request, answer))
        return wire.Answer(embedding=(await answer).tolist())

    return app


if __name__ == "__main__":
    wire.run(make_app)
