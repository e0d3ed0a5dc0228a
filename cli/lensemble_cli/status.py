"""`lensemble doctor` and `lensemble status`: will it run, and how does it?"""

from __future__ import annotations

import argparse
import re
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from lensemble_cli.options import add_server, missing
from lensemble_client.client import Client
from lensemble_contract.errors import InvalidInputError

METRICS_URL = "http://127.0.0.1:8002/metrics"
_PORTS = (8000, 8001, 8002, 8003)
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_CLEAR = "\x1b[H\x1b[J"
_TIMEOUT_S = 5.0

Sample = Mapping[tuple[str, str], float]
"""(metric, model) -> sum over its other labels."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds both."""
    doctor = commands.add_parser(
        "doctor",
        help="look for what stands in the way of a server, each with its remedy",
        description="Options left out are taken from the LENSEMBLE_* variables.",
    )
    doctor.add_argument("--checkpoint", type=Path, help="serving checkpoint; every file is hashed")
    doctor.add_argument("--index", type=Path, help="index to search")
    doctor.set_defaults(run=_doctor)

    status = commands.add_parser(
        "status", help="say which models can serve now, and what they have to do"
    )
    status.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    status.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    status.add_argument(
        "--metrics", default=METRICS_URL, help=f"of Triton (default: {METRICS_URL})"
    )
    add_server(status)
    status.set_defaults(run=_status)


def _doctor(given: argparse.Namespace) -> int:
    try:
        from lensemble.operations.doctor import FAULT, examine
        from lensemble.settings import Settings
    except ImportError as error:
        return missing("local-server", error)
    try:
        settings = Settings.from_env(checkpoint=given.checkpoint, index=given.index)
    except InvalidInputError as error:
        if error.field != "LENSEMBLE_CHECKPOINT" or given.index is not None:
            raise
        settings = None
    faults = 0
    for finding in examine(settings, _PORTS):
        faults += finding.level == FAULT
        print(f"{finding.level:8} {finding.subject:14} {finding.text}")
        if finding.remedy:
            print(f"{'':23} -> {finding.remedy}")
    return 1 if faults else 0


def _status(given: argparse.Namespace) -> int:
    if given.every <= 0:
        raise InvalidInputError(f"{given.every:g}; expected more than 0 seconds", field="every")
    with Client(given.url, tls=given.tls, timeout_s=given.timeout) as client:
        if not given.watch:
            return _print_models(client)
        before, then = sample(given.metrics), time.monotonic()
        while True:
            time.sleep(given.every)
            now = time.monotonic()
            after = sample(given.metrics)
            sys.stdout.write(_CLEAR)
            _print_models(client)
            print("\n" + table(before, after, now - then), flush=True)
            before, then = after, now


def _print_models(client: Client) -> int:
    status = client.status()
    print(status.server)
    for name, ready in status.models.items():
        print(f"  {name:12} {'ready' if ready else 'NOT ready'}")
    print(f"embedders: {', '.join(client.embedders()) or 'none'}")
    return 0 if all(status.models.values()) else 1


def sample(url: str) -> Sample:
    """Triton's metrics as they are now; empty if they cannot be read.

    Args:
        url: Of the metrics.
    """
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # nosec B310
            return read(answer.read().decode())
    except (OSError, ValueError):
        return {}


def read(text: str) -> Sample:
    """Metrics in Prometheus' text format.

    Args:
        text: All of them.
    """
    found: dict[tuple[str, str], float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        said = dict(_LABEL.findall(labels))
        key = (name, said.get("model") or said.get("triton_model", ""))
        found[key] = found.get(key, 0.0) + float(value)
    return found


def table(before: Sample, after: Sample, seconds: float) -> str:
    """What each model did between two looks.

    Args:
        before: The earlier look.
        after: The later one.
        seconds: Between them.
    """
    if not after:
        return "its metrics cannot be read (--metrics)"

    def more(name: str, model: str) -> float:
        return after.get((name, model), 0.0) - before.get((name, model), 0.0)

    lines = [
        f"{'':12} {'requests/s':>10} {'waiting':>8} {'waits ms':>9} {'works ms':>9} {'errors/s':>9}"
    ]
    for model in sorted(model for name, model in after if name == "nv_inference_request_success"):
        done = more("nv_inference_request_success", model)
        waits, works = (
            more(f"nv_inference_{what}_duration_us", model) / done / 1000 if done else 0.0
            for what in ("queue", "compute_infer")
        )
        lines.append(
            f"{model:12} {done / seconds:10.1f} "
            f"{after.get(('nv_inference_pending_request_count', model), 0.0):8.0f} "
            f"{waits:9.1f} {works:9.1f} {more('lensemble_errors_total', model) / seconds:9.1f}"
        )
    if ("lensemble_index_items", "faiss") in after:
        items, delta = (
            after.get((f"lensemble_index_{what}", "faiss"), 0.0) for what in ("items", "delta")
        )
        lines.append(f"index: {items:.0f} items, {delta:.0f} of them since the snapshot")
    return "\n".join(lines)
