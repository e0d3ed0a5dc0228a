"""The peers' run: all servers up, asked by turns, compared.

python -m benchmarks.peers [--quick] [--workload demo|small|both] [--callers 16] [--save]

In a round every server has two turns, one with all callers and one with a single caller, while the
others idle; each sees the same items in the same order, and none twice. First, all servers' vectors
of the same items are compared with ours. How to read the table: README.md beside this file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common.measure import finish
from benchmarks.common.workload import WORKLOADS
from benchmarks.peers import (
    faiss_inprocess,
    infinity,
    naive,
    sentence_transformers_server,
    vllm_cpu,
)
from benchmarks.peers.load import Turn, turn, vectors
from benchmarks.peers.peer import Peer, Protocol, serving
from benchmarks.peers.report import SERVED, SERVED_FP32, SERVED_ONNX, Measured, least_cosine
from lensemble.checkpoint import Checkpoint
from lensemble.operations.tritonserver import TritonServer, stop_on_signals
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_export.onnx.export_graphs import export_graphs

MIN_COSINE = 0.999
_CHECKED = 12
_BUSY_PERCENT = 10.0
_LOOK_S = 3.0
_ITEMS = {"demo": 4000, "small": 600}
_WITH_GRAPHS = ("demo",)
"""Where ONNX Runtime is faster than PyTorch: `benchmarks.encoder.engines`."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        rounds: Of turns.
        loaded_s: Seconds of a turn with all callers.
        alone_s: Seconds of a turn with one.
    """

    rounds: int
    loaded_s: float
    alone_s: float


QUICK, THOROUGH = Pace(3, 3.0, 1.5), Pace(7, 8.0, 4.0)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is up."""

    protocol: Protocol
    url: str
    dtype: str


def contenders(dtypes: tuple[str, ...], vllm: Path | None) -> tuple[list[Peer], dict[str, str]]:
    """Peers that can be run, in each of the precisions, and the reasons of those that cannot.

    Args:
        dtypes: Of `fp32` and `bf16`.
        vllm: As of `vllm_cpu.available`.
    """
    peers = [p for d in dtypes for p in (naive.peer(d), sentence_transformers_server.peer(d))]
    reasons = {"infinity": infinity.available(), "vllm": vllm_cpu.available(vllm)}
    if vllm is not None and reasons["vllm"] is None:
        peers += [vllm_cpu.peer(vllm, dtype) for dtype in dtypes]
    return peers, {name: reason for name, reason in reasons.items() if reason is not None}


@contextmanager
def all_up(
    workload: str, dtypes: tuple[str, ...], peers: list[Peer]
) -> Iterator[dict[str, Running]]:
    """Lensemble in its default precision, in fp32 if that is another, by ONNX Runtime; the peers.

    Args:
        workload: A key of `WORKLOADS`.
        dtypes: Precisions that this machine and checkpoint allow; the last one is the default.
        peers: Who else.
    """
    checkpoint, default = WORKLOADS[workload].checkpoint(), dtypes[-1]
    with ExitStack() as stack:
        by_torch = Settings(checkpoint=checkpoint, engine="torch")
        ours = {SERVED: (by_torch, default)}
        if default != "fp32":
            ours[SERVED_FP32] = replace(by_torch, dtype="fp32"), "fp32"
        if workload in _WITH_GRAPHS:
            graphs = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "onnx"
            export_graphs(Checkpoint.open(checkpoint), graphs)
            ours[SERVED_ONNX] = replace(by_torch, engine="onnx", onnx=graphs), "fp32"
        running = {}
        for name, (settings, precision) in ours.items():
            server = stack.enter_context(TritonServer(settings))
            running[name] = Running("grpc", server.grpc_url, precision)
        for peer in peers:
            url = stack.enter_context(serving(peer, checkpoint))
            running[peer.name] = Running(peer.protocol, url, peer.dtype)
        yield running


def measure(
    workload: str, servers: Mapping[str, Running], callers: int, pace: Pace, client: Any
) -> Measured:
    """Compares vectors, then measures.

    Args:
        workload: A key of `WORKLOADS`.
        servers: Name -> where it is; `served` among them.
        callers: At a time, in the turns that are not of one.
        pace: How much.
        client: Executor in whose process the callers are.

    Raises:
        RuntimeError: A server gives other vectors than `served`.
    """
    checked = WORKLOADS[workload].items("mixed", _CHECKED, seed=1)
    found = {
        name: client.submit(vectors, one.protocol, one.url, checked).result()
        for name, one in servers.items()
    }
    cosines = {name: round(least_cosine(those, found[SERVED]), 7) for name, those in found.items()}
    for name, least in cosines.items():
        if not least >= MIN_COSINE:
            raise RuntimeError(
                f"{name}: cosine {least} to our vectors, expected at least {MIN_COSINE}; it does "
                "other work than the rest, so nothing was measured: compare its prompt, pooling "
                "and pictures' sizes with the profile's"
            )
    items = WORKLOADS[workload].items("mixed", _ITEMS[workload])
    loaded: dict[str, list[Turn]] = {name: [] for name in servers}
    alone: dict[str, list[Turn]] = {name: [] for name in servers}
    seen = dict.fromkeys(servers, 0)
    for _ in range(pace.rounds):
        for name, one in servers.items():
            turns = ((loaded, callers, pace.loaded_s), (alone, 1, pace.alone_s))
            for kept, count, seconds in turns:
                # From where its last turn ended: an item that comes again may be in a cache.
                rest = items[seen[name] % len(items) :] + items[: seen[name] % len(items)]
                took = client.submit(turn, one.protocol, one.url, rest, count, seconds).result()
                kept[name].append(took)
                seen[name] += took.asked
    for name, count in seen.items():
        if count > len(items):
            print(f"{name} saw items again after {len(items)}; a cache may have helped it")
    dtypes = {name: one.dtype for name, one in servers.items()}
    return Measured(loaded, alone, dtypes, cosines)


def main() -> None:
    """Prints tables and reasons, then one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--workload", choices=(*WORKLOADS, "both"), default="demo")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--vllm", type=Path, help="program `vllm` of a CPU build")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/peers.json")
    given = parser.parse_args()
    if given.callers < 1:
        parser.error(f"--callers: {given.callers}; expected at least 1")
    pace = QUICK if given.quick else THOROUGH
    chosen = list(WORKLOADS) if given.workload == "both" else [given.workload]
    results: dict[str, Any] = {}
    if (busy := psutil.cpu_percent(_LOOK_S)) > _BUSY_PERCENT:
        print(f"{busy:.0f} % of the CPUs are busy with something else: no ratio will hold; wait")
    spawn = multiprocessing.get_context("spawn")
    with stop_on_signals(), ProcessPoolExecutor(1, mp_context=spawn) as client:
        for workload in chosen:
            checkpoint = WORKLOADS[workload].checkpoint()
            bf16 = Pipeline(Settings(checkpoint=checkpoint)).encoder.precision == "bfloat16"
            dtypes = ("fp32", "bf16") if bf16 else ("fp32",)
            peers, skipped = contenders(dtypes, given.vllm)
            with all_up(workload, dtypes, peers) as servers:
                measured = measure(workload, servers, given.callers, pace, client)
            results[workload] = measured.content()
            print(f"\n{workload}: {given.callers} callers, and one alone\n{measured.table()}")
    results["faiss"] = faiss_inprocess.compare(pace.rounds)
    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}")
    params: dict[str, Any] = {"callers": given.callers, "rounds": pace.rounds, "busy_percent": busy}
    params["skipped"] = skipped
    finish("peers", params, _brief(results) if not given.save else results, given.save)


def _brief(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results without each single turn."""
    return {
        name: {key: value for key, value in part.items() if key != "servers"}
        for name, part in results.items()
    }
