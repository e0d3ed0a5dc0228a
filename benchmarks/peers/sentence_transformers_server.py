"""sentence-transformers' own support for this architecture behind FastAPI, with batching.

python -m benchmarks.peers.sentence_transformers_server CHECKPOINT PORT [--dtype bf16]

Requests that arrive while a batch is computed wait; all waiting requests, up to `MAX_BATCH`, form
the next batch. `encode` sorts them by length and pads each of its batches to the longest.

With its default settings, the library gives different vectors for a checkpoint that it has not
saved itself (cosine 0.45 to 0.97 to the reference), because it renders neither the system prompt
nor the assistant's header before the last token. It also puts an item's parts into the prompt in
the order of the dictionary, so the picture must come first. With `prompt`, `add_generation_prompt`
and that order, the vectors agree.
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

from benchmarks.common.workloads import INSTRUCTION
from benchmarks.peers import http_api
from benchmarks.peers.naive_server import DTYPES
from benchmarks.peers.peer import Peer, name_with_dtype

# Largest number of items in one batch.
MAX_BATCH = 32

Vectors = NDArray[np.float32]


def peer(dtype: str = "fp32") -> Peer:
    """Returns this server in a precision, `fp32` or `bf16`."""
    module = "benchmarks.peers.sentence_transformers_server"
    command = (sys.executable, "-m", module, "{checkpoint}", "{port}", "--dtype", dtype)
    return Peer(name_with_dtype("sentence_transformers", dtype), dtype, "json", command)


def load(checkpoint: Path, dtype: str) -> Any:
    """Loads the library's model with the reference's pooling, normalisation and picture sizes."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(
        str(checkpoint),
        model_kwargs={"dtype": DTYPES[dtype], "attn_implementation": "sdpa"},
        processing_kwargs={
            "chat_template": {"add_generation_prompt": True},
            "image": {"size": http_api.pixel_limits(checkpoint)},
        },
    )
    pooling = Pooling(transformer.get_embedding_dimension(), "lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def encode(model: Any, requests: list[http_api.HttpRequest]) -> Vectors:
    """Returns the vectors of requests, (B, D) float32, in the order of the requests."""
    inputs = []
    for request in requests:
        parts = {"image": request.picture(), "text": request.text}
        inputs.append({name: part for name, part in parts.items() if part is not None})
    vectors = model.encode(
        inputs,
        batch_size=MAX_BATCH,
        prompt=INSTRUCTION,
        show_progress_bar=False,
        convert_to_numpy=True,
    )
    return np.asarray(vectors, np.float32)


def make_app(checkpoint: Path, dtype: str = "fp32") -> FastAPI:
    """Returns the application, with its model loaded."""
    model = load(checkpoint, dtype)
    waiting: asyncio.Queue[tuple[http_api.HttpRequest, asyncio.Future[Vectors]]] = asyncio.Queue()

    async def encode_batches() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            while True:
                batch = [await waiting.get()]
                while len(batch) < MAX_BATCH and not waiting.empty():
                    batch.append(waiting.get_nowait())
                requests = [request for request, _ in batch]
                try:
                    vectors = await loop.run_in_executor(pool, encode, model, requests)
                except Exception as error:  # an error of the batch must not end this loop
                    for _, answer in batch:
                        answer.set_exception(error)
                    continue
                for (_, answer), vector in zip(batch, vectors, strict=True):
                    answer.set_result(vector)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(encode_batches())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/embed")
    async def embed(request: http_api.HttpRequest) -> http_api.HttpAnswer:
        answer: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        waiting.put_nowait((request, answer))
        return http_api.HttpAnswer(embedding=(await answer).tolist())

    return app


if __name__ == "__main__":
    http_api.run_server(make_app)
