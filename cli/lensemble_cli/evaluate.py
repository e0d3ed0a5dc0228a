"""`lensemble eval`: measures how well a server finds what a dataset marks as relevant."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from lensemble_cli.options import Commands, add_server_options, connect
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError


def add_command(commands: Commands) -> None:
    """Adds `lensemble eval`."""
    evaluate = commands.add_parser(
        "eval",
        help="measure how well the server finds what a dataset marks as relevant",
        description="docs/evaluation.md describes the layout of a dataset.",
    )
    evaluate.add_argument("dataset", type=Path, help="folder in BEIR's layout, with pictures")
    evaluate.add_argument("--split", help="file in qrels/ (default: test, or the only one)")
    evaluate.add_argument(
        "--through",
        choices=("embed", "search"),
        default="embed",
        help="embed: rank exactly, in this process; search: let the server's index rank",
    )
    evaluate.add_argument("--embedder", choices=contract.EMBEDDERS, default=contract.NATIVE)
    evaluate.add_argument("--dimensions", help="Matryoshka lengths, such as 64,128,2048")
    evaluate.add_argument(
        "--concurrency", type=int, default=DEFAULT_CONCURRENCY, help="requests in flight at a time"
    )
    evaluate.add_argument("--baseline", type=Path, help="JSON of an earlier run to compare with")
    evaluate.add_argument("--json", type=Path, help="file to write the figures to")
    evaluate.add_argument("--plots", type=Path, help="folder to write plots to")
    add_server_options(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from lensemble_evaluation import report
    from lensemble_evaluation.dataset import load_dataset
    from lensemble_evaluation.evaluate import evaluate
    from lensemble_evaluation.result_files import load_evaluation, save_result

    dimensions = _parse_lengths(args.dimensions)
    if dimensions and args.through == "search":
        raise InvalidInputError(
            "it cannot be combined with --through search: an index has one length",
            field="dimensions",
        )
    dataset = load_dataset(args.dataset, args.split)
    baseline = load_evaluation(args.baseline) if args.baseline else None
    if baseline is not None:
        report.check_baseline(baseline, dataset.name, dataset.split)
    check_outputs(args.json, args.plots)
    with connect(args) as client:
        evaluation = evaluate(
            client,
            dataset,
            through=args.through,
            dimensions=dimensions,
            embedder=args.embedder,
            concurrency=args.concurrency,
            progress=True,
        )
    print(report.format_table(evaluation, baseline))
    if args.json:
        save_result(evaluation, args.json)
    if args.plots:
        from lensemble_evaluation.plots import plot_evaluation

        print(*plot_evaluation(evaluation, args.plots), sep="\n")
    return 0


def check_outputs(json_file: Path | None, plots: Path | None) -> None:
    """Checks that results can be written, so that hours of embedding are not lost.

    Args:
        json_file: File for the figures; created if missing.
        plots: Folder for the plots; created if missing.

    Raises:
        InvalidInputError: The file or the folder cannot be written, or matplotlib is missing.
    """
    try:
        for folder in filter(None, (json_file and json_file.parent, plots)):
            folder.mkdir(parents=True, exist_ok=True)
        if json_file:
            json_file.touch()
    except OSError as error:
        raise InvalidInputError(f"cannot write the results: {error}", field="output") from error
    if plots and importlib.util.find_spec("matplotlib") is None:
        raise InvalidInputError(
            "no matplotlib; run `pip install '.[eval]'` in the checkout", field="plots"
        )


def _parse_lengths(text: str | None) -> list[int]:
    try:
        lengths = [int(length) for length in text.split(",")] if text else []
        if any(length < 1 for length in lengths):
            raise ValueError
    except ValueError as error:
        raise InvalidInputError(
            f"{text!r}; expected whole numbers above 0, separated by commas, such as 64,128",
            field="dimensions",
        ) from error
    return lengths
