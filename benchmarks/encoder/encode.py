"""Packed encoding against padded batches and single items; the server against a naive one.

    python -m benchmarks.encoder.encode [--quick] [--save]

Everything runs in fp32 on one small checkpoint with random weights, on the same cores, by turns.

- `packed`: this encoder, with all items in packed micro-batches.
- `padded`: Transformers' model on right-padded batches in the order of arrival, at the fastest of
  several batch sizes. `padded_sorted` sorts the items by length first, as an offline job can.
- `single`: Transformers' model, one item at a time.
- `served`: `embed` on a real Triton over gRPC, 16 callers; `served_default` is the same in the
  precision that the server chooses itself.
- `naive`: FastAPI with Transformers' processor and model, one forward pass per request, 16 callers.

Preprocessing is part of the last two only.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import torch

from benchmarks.common.mixed_items import mixed_items
from benchmarks.common.random_checkpoint import random_serving_checkpoint
from benchmarks.common.results import print_and_save
from benchmarks.common.timing import ratio, time_in_turn
from benchmarks.common.transformers_reference import Inputs, TransformersReference, padded
from benchmarks.peers.naive_server import peer as naive_peer
from benchmarks.peers.peer import running_peer
from lensemble.operations.tritonserver import TritonServer
from lensemble.pipeline import Pipeline
from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from lensemble.settings import Settings
from lensemble_client import Client, Item

CALLERS = 16
PADDED_BATCH_SIZES = (4, 8, 16, 32)


def in_batches(
    reference: TransformersReference, items: Sequence[Inputs], size: int
) -> Callable[[], object]:
    """Returns a function that encodes padded batches, which are made beforehand."""
    pad_id = reference.processor.tokenizer.pad_token_id
    batches = [padded(items[n : n + size], pad_id) for n in range(0, len(items), size)]
    return lambda: [reference.embed(batch) for batch in batches]


def encoders(items: Sequence[Item], checkpoint: Path, rounds: int) -> dict[str, object]:
    """Measures packed encoding against padded and single, and compares their vectors."""
    pipeline = Pipeline(Settings(checkpoint=checkpoint, dtype="fp32"))
    reference = TransformersReference(checkpoint)
    features = [pipeline.preprocess(item) for item in items]
    inputs = [
        reference.inputs(
            item.text, decode_rgb(open_picture(item.images[0])) if item.images else None
        )
        for item in items
    ]
    by_length = sorted(inputs, key=lambda item: item["input_ids"].shape[1])
    trial = time_in_turn(
        {str(size): in_batches(reference, inputs, size) for size in PADDED_BATCH_SIZES}, 1
    )
    best = int(min(trial, key=lambda size: trial[size][0]))
    seconds = time_in_turn(
        {
            "packed": lambda: pipeline.encoder.encode(features),
            "padded": in_batches(reference, inputs, best),
            "padded_sorted": in_batches(reference, by_length, best),
            "single": lambda: [reference.embed(item) for item in inputs],
        },
        rounds,
    )
    vectors = np.stack([v for v in pipeline.encoder.encode(features) if isinstance(v, np.ndarray)])
    expected = torch.cat([reference.embed(item) for item in inputs]).numpy()
    print(f"{'':16}{'items/s':>10}")
    for name, values in seconds.items():
        print(f"{name:16}{len(items) / np.median(values):10.1f}")
    return {
        **ratio("packed_over_padded", seconds["padded"], seconds["packed"]),
        **ratio("packed_over_padded_sorted", seconds["padded_sorted"], seconds["packed"]),
        **ratio("packed_over_single", seconds["single"], seconds["packed"]),
        "padded_batch_size": best,
        "packed_items_per_s": round(len(items) / float(np.median(seconds["packed"])), 1),
        "min_cosine": round(float((vectors * expected).sum(axis=1).min()), 7),
        "tokens": sum(len(f.input_ids) for f in features),
        "patches": sum(len(f.patches) for f in features),
    }


def servers(items: Sequence[Item], checkpoint: Path, rounds: int) -> dict[str, object]:
    """Measures `embed` over gRPC against the naive server over HTTP, with `CALLERS` callers."""
    bodies = [
        {
            "text": item.text,
            "image": base64.b64encode(item.images[0]).decode() if item.images else None,
        }
        for item in items
    ]
    with (
        running_peer(naive_peer(), checkpoint) as url,
        TritonServer(Settings(checkpoint=checkpoint, dtype="fp32")) as server,
        TritonServer(Settings(checkpoint=checkpoint)) as default_server,
        Client(server.grpc_url) as client,
        Client(default_server.grpc_url) as default_client,
        httpx.Client(timeout=300, limits=httpx.Limits(max_connections=CALLERS)) as web,
        ThreadPoolExecutor(CALLERS) as pool,
    ):

        def ask(body: dict[str, str | None]) -> list[float]:
            answer = web.post(f"{url}/embed", json=body).raise_for_status().json()
            return list(answer["embedding"])

        def naive() -> list[list[float]]:
            return list(pool.map(ask, bodies))

        def served() -> list[object]:
            return list(client.embed_many(items, concurrency=CALLERS, batch_size=1))

        def served_default() -> list[object]:
            return list(default_client.embed_many(items, concurrency=CALLERS, batch_size=1))

        seconds = time_in_turn(
            {"naive": naive, "served": served, "served_default": served_default}, rounds
        )
        difference = np.abs(np.array(naive()) - np.array(served())).max()
    for name, values in seconds.items():
        print(f"{name:16}{len(items) / np.median(values):10.1f}")
    return {
        **ratio("served_over_naive", seconds["naive"], seconds["served"]),
        **ratio("served_default_over_naive", seconds["naive"], seconds["served_default"]),
        "served_items_per_s": round(len(items) / float(np.median(seconds["served"])), 1),
        "naive_items_per_s": round(len(items) / float(np.median(seconds["naive"])), 1),
        "served_max_difference": float(difference),
    }


def main() -> None:
    """Runs both comparisons and prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer items and rounds")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/encode.json")
    options = parser.parse_args()
    count, rounds = (32, 3) if options.quick else (128, 7)
    items = mixed_items(count)
    checkpoint = random_serving_checkpoint()
    results = encoders(items, checkpoint, rounds) | servers(items, checkpoint, rounds)
    print_and_save(
        "encode", {"items": count, "rounds": rounds, "callers": CALLERS}, results, options.save
    )


if __name__ == "__main__":
    main()
