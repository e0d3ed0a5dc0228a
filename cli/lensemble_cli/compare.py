"""`lensemble compare`: embedders side by side on one dataset."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from lensemble_cli.options import add_server
from lensemble_client.client import Client
from lensemble_client.retry import Retry
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `lensemble compare`."""
    parser = commands.add_parser(
        "compare",
        help="measure embedders side by side: quality, latency, throughput, cost",
        description="docs/embedders.md says how it measures, docs/evaluation.md what a dataset is.",
    )
    parser.add_argument("dataset", type=Path, help="folder in BEIR's layout, with pictures")
    parser.add_argument(
        "--embedders",
        default=",".join(contract.EMBEDDERS),
        help="names with commas between (default: %(default)s)",
    )
    parser.add_argument("--split", help="file in qrels/ (default: test, or the only one)")
    parser.add_argument("--queries", type=int, help="at most so many, drawn at random")
    parser.add_argument("--samples", type=int, default=100, help="calls for latency, of each")
    parser.add_argument("--concurrency", type=int, default=16, help="calls under way at a time")
    parser.add_argument("--price", type=float, help="of the server per hour, in any currency")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--plots", type=Path, help="folder to write the plot to")
    add_server(parser)
    parser.set_defaults(run=_compare)


def _compare(given: argparse.Namespace) -> int:
    from lensemble_evaluation import compare, compare_report
    from lensemble_evaluation.dataset import load_dataset

    dataset = load_dataset(given.dataset, given.split)
    if given.queries is not None:
        if given.queries < 1:
            raise InvalidInputError(f"{given.queries}; expected 1 or more", field="queries")
        dataset = compare.of_queries(dataset, given.queries)
    check_outputs(given.json, given.plots)
    # A second try would count as latency.
    with Client(given.url, tls=given.tls, timeout_s=given.timeout, retry=Retry(tries=1)) as client:
        comparison = compare.compare(
            client,
            dataset,
            [name.strip() for name in given.embedders.split(",")],
            concurrency=given.concurrency,
            samples=given.samples,
            price_per_hour=given.price,
            progress=True,
        )
    print(compare_report.table(comparison))
    if given.json:
        compare_report.save(comparison, given.json)
    if given.plots:
        from lensemble_evaluation.plots import plot_comparison

        print(*plot_comparison(comparison, given.plots), sep="\n")
    if all(one.error for one in comparison.embedders):
        print("error: no embedder has figures", file=sys.stderr)
        return 1
    return 0


def check_outputs(json: Path | None, plots: Path | None) -> None:
    """Says what cannot be written before everything is embedded.

    Args:
        json: File that figures are to go to.
        plots: Folder that plots are to go to.

    Raises:
        InvalidInputError: It cannot be written there, or matplotlib is missing.
    """
    try:
        for folder in filter(None, (json and json.parent, plots)):
            folder.mkdir(parents=True, exist_ok=True)
        if json:
            json.touch()
    except OSError as error:
        raise InvalidInputError(f"cannot write there: {error}", field="output") from error
    if plots and importlib.util.find_spec("matplotlib") is None:
        raise InvalidInputError("no matplotlib; run `pip install 'lensemble[eval]'`", field="plots")
