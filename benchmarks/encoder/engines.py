"""PyTorch and ONNX Runtime in each of their precisions: speed behind Triton, and recall.

    python -m benchmarks.encoder.engines [--quick] [--workload demo|small|both] [--save]

Every engine has a server of its own, and they are measured by turns. `items_per_s_1` and `_32` are
those of 1 and 32 callers, `over_torch_fp32` is their ratio within a round: median, smallest and
largest. For the demo's checkpoint there is also `recall_at_10` of its held-out concepts, and
`agreement`: of the ten pictures that an engine finds for a name, the share that PyTorch in fp32
finds, too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.results import print_and_save
from benchmarks.common.workloads import WORKLOADS
from benchmarks.serving import callers
from lensemble.checkpoint import Checkpoint
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, LensembleError
from lensemble_corpus.entries import Entry
from lensemble_evaluation.dataset import Dataset, load_dataset
from lensemble_evaluation.evaluate import evaluate
from lensemble_export.onnx.export_graphs import export_graphs
from lensemble_export.onnx.quantize import quantize

DATASET = Path("demo/dataset")
BASE = "torch fp32"
ENGINES = (BASE, "torch bf16", "onnx fp32", "onnx int8")
CALLERS = (1, 32)
# Requests of one engine in one round, with 1 and with 32 callers.
REQUESTS = {"demo": (300, 1024), "small": (24, 96)}
TASK = "text to picture"
_TOP = 10

Figures = dict[str, Any]


def settings(engine: str, checkpoint: Path, graphs: Path) -> Settings:
    """Returns the settings of a server with an engine.

    Args:
        engine: One of `ENGINES`.
        checkpoint: Folder of the serving checkpoint.
        graphs: Folder with one folder of graphs per precision.
    """
    name, precision = engine.split()
    if name == "torch":
        return Settings(checkpoint=checkpoint, engine="torch").with_changes(dtype=precision)
    return Settings(checkpoint=checkpoint, engine="onnx", onnx=graphs / precision)


def measure(workload: str, engines: tuple[str, ...], rounds: int) -> dict[str, Figures]:
    """Measures each engine.

    Args:
        workload: A key of `WORKLOADS`.
        engines: Some of `ENGINES`, including `BASE`.
        rounds: Number of rounds.
    """
    checkpoint = Checkpoint.open(WORKLOADS[workload].checkpoint())
    results: dict[str, Figures] = {engine: {} for engine in engines}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        graphs = Path(folder)
        quantize(export_graphs(checkpoint, graphs / "fp32"), graphs / "int8")
        servers = {
            engine: stack.enter_context(TritonServer(settings(engine, checkpoint.folder, graphs)))
            for engine in engines
        }
        for count, requests in zip(CALLERS, REQUESTS[workload], strict=True):
            for engine, figures in _speeds(workload, servers, count, requests, rounds).items():
                results[engine].update(figures)
        if workload == "demo":
            for engine, figures in _quality(servers).items():
                results[engine].update(figures)
    return results


def _speeds(
    workload: str, servers: dict[str, TritonServer], count: int, requests: int, rounds: int
) -> dict[str, Figures]:
    speeds: dict[str, list[Figures]] = {engine: [] for engine in servers}
    for turn in range(rounds):
        print(f"{workload}: {count} callers, round {turn + 1}", file=sys.stderr)
        for engine, server in [*servers.items()][:: -1 if turn % 2 else 1]:
            url = server.grpc_url
            speeds[engine].append(
                callers.run_in_process(url, workload, callers=count, requests=requests)
            )
    figures: dict[str, Figures] = {}
    for engine, each in speeds.items():
        ratios = [
            one["items_per_s"] / base["items_per_s"]
            for one, base in zip(each, speeds[BASE], strict=True)
        ]
        figures[engine] = {
            f"items_per_s_{count}": round(statistics.median(one["items_per_s"] for one in each), 2),
            f"p50_ms_{count}": round(statistics.median(one["p50_ms"] for one in each), 1),
            f"over_torch_fp32_{count}": round(statistics.median(ratios), 2),
            f"over_torch_fp32_{count}_spread": [round(min(ratios), 2), round(max(ratios), 2)],
            f"failed_{count}": sum(one["failed"] for one in each),
        }
    return figures


def _quality(servers: dict[str, TritonServer]) -> dict[str, Figures]:
    """Returns recall and agreement on the held-out split, by exact search over the vectors."""
    dataset = load_dataset(DATASET, "held_out")
    figures: dict[str, Figures] = {}
    tops: dict[str, NDArray[np.int64]] = {}
    for engine, server in servers.items():
        print(f"quality: {engine}", file=sys.stderr)
        with Client(server.grpc_url) as client:
            rows = evaluate(client, dataset).rows
            tops[engine] = _tops(client, dataset)
        figures[engine] = {
            "recall_at_10": {
                f"{row.task}, {row.language}": round(row.metrics["recall@10"], 4) for row in rows
            },
            "agreement": round(
                float(
                    np.mean(
                        [
                            len(set(one) & set(other)) / _TOP
                            for one, other in zip(tops[engine], tops[BASE], strict=True)
                        ]
                    )
                ),
                4,
            ),
        }
        base = figures[BASE]["recall_at_10"]
        figures[engine]["recall_at_10_lost_most"] = round(
            max(base[row] - value for row, value in figures[engine]["recall_at_10"].items()), 4
        )
    return figures


def _tops(client: Client, dataset: Dataset) -> NDArray[np.int64]:
    """Returns the positions of the ten nearest pictures of each name: (Q, 10)."""
    queries = [entry for entry in dataset.queries if not entry.item().images]
    corpus, asked = (_vectors(client, entries) for entries in (dataset.corpus, queries))
    return np.argsort(-(asked @ corpus.T), axis=1, kind="stable")[:, :_TOP]


def _vectors(client: Client, entries: list[Entry]) -> NDArray[np.float32]:
    vectors = []
    for result in client.embed_many([entry.item() for entry in entries]):
        if isinstance(result, LensembleError):
            raise result
        vectors.append(result)
    return np.stack(vectors)


def table(results: dict[str, Figures]) -> str:
    """Returns the table of one workload, one line for each engine."""
    lines = []
    for engine, figures in results.items():
        cells = [f"{engine:12}"]
        for count in CALLERS:
            least, most = figures[f"over_torch_fp32_{count}_spread"]
            cells.append(
                f"{count:>3} callers {figures[f'items_per_s_{count}']:8.1f}/s "
                f"{figures[f'over_torch_fp32_{count}']:5.2f} ({least:.2f}-{most:.2f})"
            )
        if "agreement" in figures:
            cells.append(
                f"lost recall@10 {figures['recall_at_10_lost_most']:.4f} "
                f"agreement {figures['agreement']:.4f}"
            )
        lines.append("  ".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds")
    parser.add_argument("--workload", choices=(*WORKLOADS, "both"), default="demo")
    parser.add_argument("--save", action="store_true", help="write results/engines.json")
    options = parser.parse_args()
    rounds = 2 if options.quick else 5
    workloads = [*WORKLOADS] if options.workload == "both" else [options.workload]
    results = {}
    with stop_on_signals():
        for workload in workloads:
            results[workload] = measure(workload, ENGINES, rounds)
            print(f"{workload}\n{table(results[workload])}")
    print_and_save("engines", {"rounds": rounds}, results, options.save)


if __name__ == "__main__":
    main()
