"""`lensemble status`: prints which models are ready, and with `--watch` what they do."""

from __future__ import annotations

import argparse
import http.client
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeAlias

from lensemble_cli.options import Commands, add_server_options, connect
from lensemble_client.client import Client
from lensemble_contract.direct_connections import open_url
from lensemble_contract.errors import InvalidInputError, NotReadyError

METRICS_URL = "http://127.0.0.1:8002/metrics"
_CLEAR_SCREEN = "\x1b[H\x1b[J"
_TIMEOUT_S = 5.0

# (metric, model) -> the sum over all other labels of the metric. Names are without `_total`: the
# parser appends it to counters that lack it, as Triton's own do.
MetricValues: TypeAlias = Mapping[tuple[str, str], float]


def add_command(commands: Commands) -> None:
    """Adds `lensemble status`."""
    status = commands.add_parser(
        "status", help="print which models are ready, and how much work they have"
    )
    status.add_argument("--watch", action="store_true", help="print this repeatedly, until Ctrl-C")
    status.add_argument("--every", type=float, default=2.0, help="seconds between two readings")
    status.add_argument(
        "--metrics", default=METRICS_URL, help=f"URL of Triton's metrics (default: {METRICS_URL})"
    )
    add_server_options(status)
    status.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> int:
    if args.every <= 0:
        raise InvalidInputError(f"{args.every:g}; expected more than 0 seconds", field="every")
    with connect(args) as client:
        if not args.watch:
            return _print_models(client)
        before, read_before = fetch_metrics(args.metrics), time.monotonic()
        while True:
            time.sleep(args.every)
            after, read_after = fetch_metrics(args.metrics), time.monotonic()
            sys.stdout.write(_CLEAR_SCREEN)
            _print_models(client)
            print("\n" + format_activity(before, after, read_after - read_before), flush=True)
            before, read_before = after, read_after


def _print_models(client: Client) -> int:
    status = client.status()
    print(status.server)
    for name, ready in status.models.items():
        print(f"  {name:12} {'ready' if ready else 'NOT ready'}")
    print(f"embedders: {', '.join(client.embedders()) or 'none'}")
    return 0 if all(status.models.values()) else 1


def fetch_metrics(url: str) -> MetricValues:
    """Reads Triton's metrics; the result is empty if they cannot be read.

    Args:
        url: URL of the metrics.

    Raises:
        NotReadyError: What listens there does not speak HTTP, such as Triton's gRPC port.
    """
    try:
        with open_url(url, _TIMEOUT_S) as response:
            return parse_metrics(response.read().decode())
    except (OSError, ValueError, http.client.IncompleteRead, http.client.InvalidURL):
        return {}
    except http.client.HTTPException as error:
        raise NotReadyError(
            f"{url} does not speak HTTP; expected the URL of Triton's metrics (--metrics)"
        ) from error


def parse_metrics(text: str) -> MetricValues:
    """Parses metrics in Prometheus' text format.

    Args:
        text: The body of the answer from the metrics URL.

    Raises:
        ValueError: The text has another format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    values: defaultdict[tuple[str, str], float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            model = sample.labels.get("model") or sample.labels.get("triton_model", "")
            values[sample.name.removesuffix("_total"), model] += sample.value
    return dict(values)


def format_activity(before: MetricValues, after: MetricValues, seconds: float) -> str:
    """Formats what each model did between two readings of the metrics, as a table.

    Args:
        before: Metrics of the earlier reading.
        after: Metrics of the later reading.
        seconds: Time between the two readings.
    """
    if not after:
        return "cannot read the metrics; give their URL (--metrics)"

    def increase(name: str, model: str) -> float:
        return after.get((name, model), 0.0) - before.get((name, model), 0.0)

    lines = [
        f"{'':12} {'requests/s':>10} {'waiting':>8} {'waits ms':>9} {'works ms':>9} {'errors/s':>9}"
    ]
    for model in sorted(model for name, model in after if name == "nv_inference_request_success"):
        requests = increase("nv_inference_request_success", model)
        wait_ms, compute_ms = (
            increase(f"nv_inference_{step}_duration_us", model) / requests / 1000
            if requests
            else 0.0
            for step in ("queue", "compute_infer")
        )
        pending = after.get(("nv_inference_pending_request_count", model), 0.0)
        errors = increase("lensemble_errors", model)
        lines.append(
            f"{model:12} {requests / seconds:10.1f} {pending:8.0f} "
            f"{wait_ms:9.1f} {compute_ms:9.1f} {errors / seconds:9.1f}"
        )
    if ("lensemble_index_items", "faiss") in after:
        items, delta = (
            after.get((f"lensemble_index_{part}", "faiss"), 0.0) for part in ("items", "delta")
        )
        lines.append(f"index: {items:.0f} items, {delta:.0f} of them since the snapshot")
    return "\n".join(lines)
