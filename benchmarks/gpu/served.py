"""Through Triton: throughput as a share of the encoder alone, latency by load, time per stage.

`embed` over gRPC on equal and mixed pictures, with several numbers of callers and of `preprocess`
instances. Before that, the encoder alone runs on the same items' features and is then unloaded.
"""

from __future__ import annotations

import gc
import io
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import tritonclient.grpc as triton
from PIL import Image

from benchmarks.common.mixed_items import mixed_items
from benchmarks.common.photos import encoded, read_photo
from benchmarks.gpu.step import Step, parse_arguments
from lensemble.checkpoint import Checkpoint
from lensemble.operations.tritonserver import TritonServer
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble_client import Client, Item

STAGES = ("preprocess", "qwen3_vl")


def encoder_rate(step: Step, items: Sequence[Item]) -> float:
    """Returns the items per second of the encoder alone, on preprocessed features."""
    preprocess = Preprocessor(Checkpoint.open(step.checkpoint()))
    features = [preprocess(item) for item in items]
    encoder = step.encoder()
    rate = len(items) / step.seconds(partial(encoder.encode, features), repeats=5)
    del encoder
    gc.collect()
    if not step.dry:
        torch.cuda.empty_cache()
    return rate


def stage_times(server: TritonServer) -> dict[str, float]:
    """Returns milliseconds per item in each stage's queue and computation since the start."""
    with triton.InferenceServerClient(server.grpc_url.split("//")[1]) as client:
        times = {}
        for stage in STAGES:
            (stats,) = client.get_inference_statistics(stage).model_stats
            count = max(1, stats.inference_count)
            executed = max(1, stats.execution_count)
            times[f"{stage}_queue_ms"] = round(stats.inference_stats.queue.ns / count / 1e6, 3)
            infer_ns = stats.inference_stats.compute_infer.ns
            times[f"{stage}_work_ms"] = round(infer_ns / count / 1e6, 3)
            times[f"{stage}_batch"] = round(stats.inference_count / executed, 2)
    return times


def load(client: Client, items: Sequence[Item], callers: int, calls: int) -> dict[str, float]:
    """Runs a closed loop and returns items per second, and p50 and p99 in milliseconds."""

    def call(n: int) -> float:
        item = items[n % len(items)]
        began = time.perf_counter()
        client.embed(item.text, item.images or None)
        return (time.perf_counter() - began) * 1e3

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(min(calls, 4 * callers))))  # warm-up
        began = time.perf_counter()
        latencies = list(pool.map(call, range(calls)))
        seconds = time.perf_counter() - began
    percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
    return {
        "callers": callers,
        "items_per_s": round(calls / seconds, 1),
        "p50_ms": round(percentiles[49], 1),
        "p99_ms": round(percentiles[98], 1),
    }


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__)
    photo = Image.open(io.BytesIO(read_photo("china.jpg")))
    sets = {
        "448x448": [Item(images=(encoded(photo.resize((448, 448))),))] * 64,
        "mixed": mixed_items(64),
    }
    counts = (2,) if step.dry else (4, 8, 12)
    callers = (1, 4) if step.dry else (1, 16, 64, 128)
    rates = {name: encoder_rate(step, items) for name, items in sets.items()}
    print({name: round(rate, 1) for name, rate in rates.items()}, flush=True)
    rows: list[dict[str, object]] = []
    for instances in counts:
        settings = step.settings().with_changes(preprocess_instances=instances)
        with (
            TritonServer(settings) as server,
            Client(server.grpc_url) as client,
        ):
            for name, items in sets.items():
                for number in callers:
                    calls = 8 if step.dry else max(64, 16 * number)
                    measured = load(client, items, number, calls)
                    row: dict[str, object] = {
                        "set": name,
                        "instances": instances,
                        **measured,
                        "of_encoder_alone": round(measured["items_per_s"] / rates[name], 3),
                    }
                    rows.append(row)
                    print(row, flush=True)
            stages = stage_times(server)
            print(stages, flush=True)
            rows[-1] |= stages
            step.save("served", {"encoder_alone_items_per_s": rates, "rows": rows})


if __name__ == "__main__":
    main()
