"""`lensemble compare`: measures embedders side by side on one dataset."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lensemble_cli.evaluate import check_outputs
from lensemble_cli.options import Commands, add_server_options, connect
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_client.retry import Retry
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError


def add_command(commands: Commands) -> None:
    """Adds `lensemble compare`."""
    parser = commands.add_parser(
        "compare",
        help="measure embedders side by side: quality, latency, throughput, cost",
        description="docs/embedders.md describes the method, docs/evaluation.md the layout of a "
        "dataset.",
    )
    parser.add_argument("dataset", type=Path, help="folder in BEIR's layout, with pictures")
    parser.add_argument(
        "--embedders",
        default=",".join(contract.EMBEDDERS),
        help="names, separated by commas (default: %(default)s)",
    )
    parser.add_argument("--split", help="file in qrels/ (default: test, or the only one)")
    parser.add_argument("--queries", type=int, help="draw at most this many queries at random")
    parser.add_argument(
        "--samples", type=int, default=100, help="calls per embedder that measure latency"
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=DEFAULT_CONCURRENCY,
        help="requests in flight at a time",
    )
    parser.add_argument("--price", type=float, help="price of the server per hour, any currency")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--plots", type=Path, help="folder to write the plot to")
    add_server_options(parser)
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from lensemble_evaluation import compare_report
    from lensemble_evaluation.compare import compare_embedders, sample_queries
    from lensemble_evaluation.dataset import load_dataset
    from lensemble_evaluation.result_files import save_result

    dataset = load_dataset(args.dataset, args.split)
    if args.queries is not None:
        if args.queries < 1:
            raise InvalidInputError(f"{args.queries}; expected 1 or more", field="queries")
        dataset = sample_queries(dataset, args.queries)
    check_outputs(args.json, args.plots)
    # Failed calls are not tried again, because the time of a second try would count as latency.
    with connect(args, Retry(tries=1)) as client:
        comparison = compare_embedders(
            client,
            dataset,
            [name.strip() for name in args.embedders.split(",")],
            concurrency=args.concurrency,
            samples=args.samples,
            price_per_hour=args.price,
            progress=True,
        )
    print(compare_report.format_table(comparison))
    if args.json:
        save_result(comparison, args.json)
    if args.plots:
        from lensemble_evaluation.plots import plot_comparison

        print(*plot_comparison(comparison, args.plots), sep="\n")
    if all(result.error for result in comparison.embedders):
        print("error: no embedder could be measured", file=sys.stderr)
        return 1
    return 0
