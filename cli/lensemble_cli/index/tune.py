"""`lensemble index tune`: measures speed, recall and memory of the kinds of index."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from lensemble_cli.options import Commands, requiring_extras
from lensemble_contract.errors import LensembleError


def add_action(actions: Commands) -> None:
    """Adds `lensemble index tune`."""
    summary = "measure kinds of index on an index's own vectors"
    tune = actions.add_parser("tune", help=summary, description=summary)
    tune.add_argument("index", type=Path)
    tune.add_argument("--kinds", help="kinds, such as exact,ivf,hnsw (default: all)")
    tune.add_argument("--queries", type=Path, help="(Q, D) .npy of vectors of typical queries")
    tune.add_argument("--json", type=Path, help="file to write the figures to")
    tune.add_argument("--plot", type=Path, help="PNG to draw recall against speed and memory")
    tune.set_defaults(run=requiring_extras(_tune, "export,eval,search"))


def _tune(args: argparse.Namespace) -> int:
    from lensemble.index.snapshots.tune import MIN_TRAINING_ROWS
    from lensemble_export.tune_index import measure_index, plot_measurements

    measurements = []
    print(f"{'kind':8} {'parameters':34} {'recall@10':>9} {'ms, 1':>8} {'ms, 32':>8} {'MiB':>8}")
    for point in measure_index(args.index, args.kinds and args.kinds.split(","), args.queries):
        measurements.append(point)
        parameters = " ".join(f"{name}={number}" for name, number in point.parameters.items())
        print(
            f"{point.kind:8} {parameters:34} {point.recall_at_10:9.4f} {point.ms_1:8.3f} "
            f"{point.ms_32:8.3f} {point.memory_bytes / 2**20:8.1f}",
            flush=True,
        )
    if not args.kinds and {point.kind for point in measurements} == {"exact"}:
        print(
            f"an index of fewer than {MIN_TRAINING_ROWS} items is exact whatever its kind, so only "
            "`exact` was measured",
            file=sys.stderr,
        )
    try:
        if args.json:
            figures = json.dumps([asdict(point) for point in measurements], indent=1)
            args.json.write_text(f"{figures}\n")
        if args.plot:
            print(plot_measurements(measurements, args.plot))
    except OSError as error:
        raise LensembleError(f"cannot write the result: {error}") from error
    return 0
