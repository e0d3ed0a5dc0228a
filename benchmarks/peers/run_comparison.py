"""Starts all servers, measures them by turns, and compares them.

python -m benchmarks.peers [--quick] [--workload demo|small|both] [--callers 16] [--save]

First, the vectors of all servers are compared with ours. Then, in each round, every server has two
turns, one with all callers and one with a single caller, while the other servers are idle. All
servers get the same items in the same order. A server gets an item again only after
it has got all of them; this is reported. README.md explains the table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common.results import print_and_save
from benchmarks.common.workloads import WORKLOADS
from benchmarks.peers import (
    faiss_inprocess,
    infinity,
    naive_server,
    sentence_transformers_server,
    vllm_cpu,
)
from benchmarks.peers.comparison import (
    SERVED,
    SERVED_FP32,
    SERVED_ONNX,
    PeerComparison,
    smallest_cosine,
)
from benchmarks.peers.load_generator import Turn, fetch_vectors, run_turn
from benchmarks.peers.peer import Peer, Protocol, running_peer
from lensemble.checkpoint import Checkpoint
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.tritonserver import TritonServer
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_export.onnx.export_graphs import export_graphs

# Smallest cosine between a server's vectors and ours, and the number of items that are compared.
MIN_COSINE = 0.999
_CHECKED_ITEMS = 12
# If other programs use more of the CPUs than this, the ratios are unreliable; it is measured for
# `_CPU_SAMPLE_S`.
_BUSY_PERCENT = 10.0
_CPU_SAMPLE_S = 3.0
# Number of different items of each workload.
_ITEM_COUNTS = {"demo": 4000, "small": 600}
# Workloads on which ONNX Runtime is faster than PyTorch (see `benchmarks.encoder.engines`).
_ONNX_WORKLOADS = ("demo",)


@dataclass(frozen=True, slots=True)
class TurnLengths:
    """How many turns there are, and how long they take.

    Attributes:
        rounds: Number of rounds.
        loaded_s: Seconds of a turn with all callers.
        alone_s: Seconds of a turn with a single caller.
    """

    rounds: int
    loaded_s: float
    alone_s: float


QUICK, THOROUGH = TurnLengths(3, 3.0, 1.5), TurnLengths(7, 8.0, 4.0)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Protocol, URL and precision of a running server."""

    protocol: Protocol
    url: str
    dtype: str


def available_peers(
    dtypes: tuple[str, ...], vllm: Path | None
) -> tuple[list[Peer], dict[str, str]]:
    """Returns the peers that can be run, and name -> reason of those that cannot.

    Args:
        dtypes: Precisions, `fp32` or `bf16`, in which each peer runs.
        vllm: Program `vllm` of an environment with a CPU build, or None.
    """
    peers = [
        p for d in dtypes for p in (naive_server.peer(d), sentence_transformers_server.peer(d))
    ]
    reasons = {"infinity": infinity.reason_to_skip(), "vllm": vllm_cpu.reason_to_skip(vllm)}
    if vllm is not None and reasons["vllm"] is None:
        peers += [vllm_cpu.peer(vllm, dtype) for dtype in dtypes]
    return peers, {name: reason for name, reason in reasons.items() if reason is not None}


@contextmanager
def all_running(
    workload: str, dtypes: tuple[str, ...], peers: list[Peer]
) -> Iterator[dict[str, RunningServer]]:
    """Starts Lensemble (in its default precision, in fp32, with ONNX Runtime) and the peers.

    Args:
        workload: A key of `WORKLOADS`.
        dtypes: Precisions that this machine and checkpoint allow; the last one is the default.
        peers: Peers to start.

    Yields:
        Name -> running server.
    """
    checkpoint, default = WORKLOADS[workload].checkpoint(), dtypes[-1]
    with ExitStack() as stack:
        with_torch = Settings(checkpoint=checkpoint, engine="torch")
        ours = {SERVED: (with_torch, default)}
        if default != "fp32":
            ours[SERVED_FP32] = replace(with_torch, dtype="fp32"), "fp32"
        if workload in _ONNX_WORKLOADS:
            graphs = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "onnx"
            export_graphs(Checkpoint.open(checkpoint), graphs)
            ours[SERVED_ONNX] = replace(with_torch, engine="onnx", onnx=graphs), "fp32"
        running = {}
        for name, (settings, precision) in ours.items():
            server = stack.enter_context(TritonServer(settings))
            running[name] = RunningServer("grpc", server.grpc_url, precision)
        for peer in peers:
            url = stack.enter_context(running_peer(peer, checkpoint))
            running[peer.name] = RunningServer(peer.protocol, url, peer.dtype)
        yield running


def measure(
    workload: str,
    servers: Mapping[str, RunningServer],
    callers: int,
    lengths: TurnLengths,
    callers_process: Executor,
) -> PeerComparison:
    """Compares the vectors of all servers, then measures the servers by turns.

    Args:
        workload: A key of `WORKLOADS`.
        servers: Name -> running server, including `served`.
        callers: Number of callers in the turns with all callers.
        lengths: How many turns there are, and how long they take.
        callers_process: Executor with one process, in which the callers run.

    Raises:
        RuntimeError: The vectors of a server differ from those of `served`.
    """
    checked = WORKLOADS[workload].items("mixed", _CHECKED_ITEMS, seed=1)
    vectors = {
        name: callers_process.submit(fetch_vectors, server.protocol, server.url, checked).result()
        for name, server in servers.items()
    }
    cosines = {
        name: round(smallest_cosine(theirs, vectors[SERVED]), 7) for name, theirs in vectors.items()
    }
    for name, cosine in cosines.items():
        if not cosine >= MIN_COSINE:
            raise RuntimeError(
                f"{name}: cosine {cosine} to our vectors, expected at least {MIN_COSINE}; it does "
                "different work, so nothing was measured: compare its prompt, pooling and picture "
                "sizes with those of the profile"
            )
    items = WORKLOADS[workload].items("mixed", _ITEM_COUNTS[workload])
    loaded: dict[str, list[Turn]] = {name: [] for name in servers}
    alone: dict[str, list[Turn]] = {name: [] for name in servers}
    sent = dict.fromkeys(servers, 0)
    for _ in range(lengths.rounds):
        for name, server in servers.items():
            turns = ((loaded, callers, lengths.loaded_s), (alone, 1, lengths.alone_s))
            for results, count, seconds in turns:
                # Continue where its last turn ended: a repeated item might be in a cache.
                start = sent[name] % len(items)
                unsent_first = items[start:] + items[:start]
                turn = callers_process.submit(
                    run_turn, server.protocol, server.url, unsent_first, count, seconds
                ).result()
                results[name].append(turn)
                sent[name] += turn.asked
    for name, count in sent.items():
        if count > len(items):
            print(f"{name} got items again after {len(items)}; a cache may have helped it")
    dtypes = {name: server.dtype for name, server in servers.items()}
    return PeerComparison(loaded, alone, dtypes, cosines)


def main() -> None:
    """Prints the tables, which peers were skipped and why, and one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--workload", choices=(*WORKLOADS, "both"), default="demo")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--vllm", type=Path, help="program `vllm` of a CPU build")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/peers.json")
    options = parser.parse_args()
    if options.callers < 1:
        parser.error(f"--callers: {options.callers}; expected at least 1")
    lengths = QUICK if options.quick else THOROUGH
    chosen = list(WORKLOADS) if options.workload == "both" else [options.workload]
    results: dict[str, Any] = {}
    if (busy := psutil.cpu_percent(_CPU_SAMPLE_S)) > _BUSY_PERCENT:
        print(
            f"{busy:.0f} % of the CPUs are busy with something else, so the ratios will be "
            "unreliable; better stop this run and wait"
        )
    spawn = multiprocessing.get_context("spawn")
    with stop_on_signals(), ProcessPoolExecutor(1, mp_context=spawn) as process:
        for workload in chosen:
            checkpoint = WORKLOADS[workload].checkpoint()
            bf16 = Pipeline(Settings(checkpoint=checkpoint)).encoder.precision == "bfloat16"
            dtypes = ("fp32", "bf16") if bf16 else ("fp32",)
            peers, skipped = available_peers(dtypes, options.vllm)
            with all_running(workload, dtypes, peers) as servers:
                measured = measure(workload, servers, options.callers, lengths, process)
            results[workload] = measured.content()
            print(f"\n{workload}: {options.callers} callers, and one alone\n{measured.table()}")
    results["faiss"] = faiss_inprocess.compare(lengths.rounds)
    for name, reason in skipped.items():
        print(f"{name} was skipped: {reason}")
    params: dict[str, Any] = {
        "callers": options.callers,
        "rounds": lengths.rounds,
        "busy_percent": busy,
        "skipped": skipped,
    }
    reported = results if options.save else _without_turns(results)
    print_and_save("peers", params, reported, options.save)


def _without_turns(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the results without `servers`, which has the figures of every turn."""
    return {
        name: {key: value for key, value in part.items() if key != "servers"}
        for name, part in results.items()
    }
