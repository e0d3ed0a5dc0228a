"""Triton's statistics: what each model did between two looks."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any

from lensemble_client.connection import address

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")
_TIMEOUT_S = 10.0

Counts = dict[str, Any]


def read(url: str) -> dict[str, Counts]:
    """Counters of each model since the server began.

    Args:
        url: `grpc://host:port` or `http://host:port` of Triton.

    Returns:
        Model -> `requests`, `failed`, `items`, `executions`, `<stage>_ns` with its `<stage>_count`,
        and `batches` (size -> executions).

    Raises:
        OSError: It does not answer.
    """
    scheme, place = address(url)
    if scheme == "http":
        with urllib.request.urlopen(f"{url}/v2/models/stats", timeout=_TIMEOUT_S) as answer:
            said = json.load(answer)
    else:
        said = _over_grpc(place)
    return {one["name"]: _counts(one) for one in said.get("model_stats", ())}


def _over_grpc(place: str) -> Any:
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(place)
    try:
        return client.get_inference_statistics(as_json=True, client_timeout=_TIMEOUT_S)
    except InferenceServerException as error:
        raise OSError(f"no statistics from {place!r}: {error}") from error
    finally:
        client.close()


def _counts(said: Mapping[str, Any]) -> Counts:
    """One model's; over gRPC, numbers are strings and zeros are left out."""
    stats = said.get("inference_stats", {})
    found: Counts = {
        "requests": int(stats.get("success", {}).get("count", 0)),
        "failed": int(stats.get("fail", {}).get("count", 0)),
        "items": int(said.get("inference_count", 0)),
        "executions": int(said.get("execution_count", 0)),
        "batches": {
            int(batch.get("batch_size", 0)): int(batch.get("compute_infer", {}).get("count", 0))
            for batch in said.get("batch_stats", ())
        },
    }
    for stage in STAGES:
        found[f"{stage}_ns"] = int(stats.get(stage, {}).get("ns", 0))
        found[f"{stage}_count"] = int(stats.get(stage, {}).get("count", 0))
    return found


def between(before: Mapping[str, Counts], after: Mapping[str, Counts]) -> dict[str, Counts]:
    """What each model did meanwhile; models that did nothing are left out.

    Args:
        before: As `read` gives it.
        after: The same, later.

    Returns:
        Model -> `requests`, `failed`, `items`, `executions`, `mean_batch` (items per execution),
        `<stage>_ms` (mean per request, which waits for all of its batch), and `batches` (size ->
        executions).
    """
    found = {}
    for model, late in after.items():
        early = before.get(model, _counts({}))
        more = {name: late[name] - early[name] for name in late if name != "batches"}
        if more["requests"] + more["failed"] == 0:
            continue
        batches = {
            size: executions - early["batches"].get(size, 0)
            for size, executions in sorted(late["batches"].items())
        }
        runs = more["executions"]
        found[model] = {
            **{name: more[name] for name in ("requests", "failed", "items", "executions")},
            "mean_batch": round(more["items"] / runs, 3) if runs else None,
            **{f"{stage}_ms": _mean_ms(more, stage) for stage in STAGES},
            "batches": {size: executions for size, executions in batches.items() if executions},
        }
    return found


def _mean_ms(more: Counts, stage: str) -> float:
    count = more[f"{stage}_count"]
    return round(more[f"{stage}_ns"] / count / 1e6, 3) if count else 0.0
