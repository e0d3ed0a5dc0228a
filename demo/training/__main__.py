"""`python -m demo.training`: dataset, training, checkpoint, figures.

All of it, one after the other; training goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from demo.emoji.write_dataset import write_dataset
from demo.training.plan import Plan, load_data
from demo.training.reproduce import evaluate_checkpoint, train
from lensemble.operations.signals import stop_on_signals
from lensemble_contract.errors import LensembleError
from lensemble_evaluation import report


def main() -> int:
    """Runs the stages that were asked for.

    Returns:
        0 if they succeeded, 1 if one failed, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="python -m demo.training",
        description="Writes the dataset, trains the demo checkpoint, measures it.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo/checkpoint"))
    parser.add_argument("--dataset", type=Path, default=Path("demo/dataset"))
    parser.add_argument("--work", type=Path, default=Path(".cache/training"))
    parser.add_argument("--only", choices=("dataset", "train", "evaluate"), help="one stage")
    parser.add_argument("--steps", type=_positive, default=Plan().recipe.steps)
    parser.add_argument("--variant-steps", type=_positive, default=Plan().variants.steps)
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--validate",
        action="store_true",
        help="a trial: keep a tenth of the training concepts back, watch quality on them rather "
        "than on the held-out ones, and publish nothing",
    )
    given = parser.parse_args()
    transformers_logging.disable_progress_bar()
    try:
        _run(given)
    except LensembleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last saved state", file=sys.stderr)
        return 130
    return 0


def _run(given: argparse.Namespace) -> None:
    plan = Plan(
        replace(Plan().recipe, steps=given.steps),
        replace(Plan().variants, steps=given.variant_steps),
        given.seed,
        given.validate,
    )
    stages = {given.only} if given.only else {"dataset", "train", "evaluate"}
    if plan.validate:
        stages = {"train"}
    if stages & {"dataset", "train"}:
        data = load_data(given.work)
        if "dataset" in stages:
            write_dataset(given.dataset, data.pictures, data.rendered)
        if "train" in stages:
            print(train(data, plan, given.work, given.device, given.out))
    if "evaluate" in stages:
        for found in evaluate_checkpoint(given.out, given.dataset):
            print(f"\n{report.format_table(found)}")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}; expected 1 or more")
    return number


if __name__ == "__main__":
    with stop_on_signals():
        sys.exit(main())
