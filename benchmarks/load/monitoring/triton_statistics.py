"""Triton's statistics: what each model did between two readings."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from lensemble_client.connection import split_url

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")
_TIMEOUT_S = 10.0

Counts = dict[str, Any]


def read_counters(url: str) -> dict[str, Counts]:
    """Reads the counters of each model since the server started.

    Args:
        url: Triton's `grpc://host:port` or `http://host:port`.

    Returns:
        Model -> `requests`, `failed`, `items`, `executions`, `<stage>_ns` with its `<stage>_count`,
        and `batches` (size -> executions).

    Raises:
        OSError: The server does not answer.
    """
    scheme, place = split_url(url)
    if scheme == "http":
        with urllib.request.urlopen(f"{url}/v2/models/stats", timeout=_TIMEOUT_S) as answer:
            content = json.load(answer)
    else:
        content = _read_over_grpc(place)
    return {model["name"]: _counts(model) for model in content.get("model_stats", ())}


def _read_over_grpc(place: str) -> Any:
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(place)
    try:
        return client.get_inference_statistics(as_json=True, client_timeout=_TIMEOUT_S)
    except InferenceServerException as error:
        raise OSError(f"no statistics from {place!r}: {error}") from error
    finally:
        client.close()


def _counts(model: Mapping[str, Any]) -> Counts:
    """Counters of one model; over gRPC, numbers are strings and zeros are missing."""
    stats = model.get("inference_stats", {})
    counts: Counts = {
        "requests": int(stats.get("success", {}).get("count", 0)),
        "failed": int(stats.get("fail", {}).get("count", 0)),
        "items": int(model.get("inference_count", 0)),
        "executions": int(model.get("execution_count", 0)),
        "batches": {
            int(batch.get("batch_size", 0)): int(batch.get("compute_infer", {}).get("count", 0))
            for batch in model.get("batch_stats", ())
        },
    }
    for stage in STAGES:
        counts[f"{stage}_ns"] = int(stats.get(stage, {}).get("ns", 0))
        counts[f"{stage}_count"] = int(stats.get(stage, {}).get("count", 0))
    return counts


def difference(before: Mapping[str, Counts], after: Mapping[str, Counts]) -> dict[str, Counts]:
    """Returns what each model did between two readings; idle models are left out.

    Args:
        before: Earlier counters, as `read_counters` returns them.
        after: Later counters.

    Returns:
        Model -> `requests`, `failed`, `items`, `executions`, `mean_batch` (items per execution),
        `<stage>_ms` (mean per request, which waits for its whole batch), and `batches` (size ->
        executions).
    """
    models = {}
    for model, late in after.items():
        early = before.get(model, _counts({}))
        more = {name: late[name] - early[name] for name in late if name != "batches"}
        if more["requests"] + more["failed"] == 0:
            continue
        batches = {
            size: executions - early["batches"].get(size, 0)
            for size, executions in sorted(late["batches"].items())
        }
        executed = more["executions"]
        models[model] = {
            **{name: more[name] for name in ("requests", "failed", "items", "executions")},
            "mean_batch": round(more["items"] / executed, 3) if executed else None,
            **{f"{stage}_ms": _mean_ms(more, stage) for stage in STAGES},
            "batches": {size: executions for size, executions in batches.items() if executions},
        }
    return models


def _mean_ms(more: Counts, stage: str) -> float:
    count = more[f"{stage}_count"]
    return round(more[f"{stage}_ns"] / count / 1e6, 3) if count else 0.0
