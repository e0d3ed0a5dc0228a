"""`python -m demo.training`: writes the dataset, trains, writes the checkpoint, evaluates it.

An interrupted training continues from its last saved state.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from demo.emoji.write_dataset import write_dataset
from demo.training.evaluate_checkpoint import evaluate_checkpoint
from demo.training.run_training import train
from demo.training.training_data import load_data
from demo.training.training_plan import TrainingPlan
from lensemble.operations.signals import stop_on_signals
from lensemble_contract.errors import LensembleError
from lensemble_evaluation import report


def main() -> int:
    """Runs all stages, or the one that was asked for.

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
    parser.add_argument("--steps", type=_positive, default=TrainingPlan().recipe.steps)
    parser.add_argument("--variant-steps", type=_positive, default=TrainingPlan().variants.steps)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--validate",
        action="store_true",
        help="a trial: keep a tenth of the training concepts back, measure recall on them rather "
        "than on the held-out concepts, and write no checkpoint",
    )
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    try:
        _run(options)
    except LensembleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command continues from the last saved state", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    plan = TrainingPlan(
        replace(TrainingPlan().recipe, steps=options.steps),
        replace(TrainingPlan().variants, steps=options.variant_steps),
        options.seed,
        options.validate,
    )
    stages = {options.only} if options.only else {"dataset", "train", "evaluate"}
    if plan.validate:
        stages = {"train"}
    if stages & {"dataset", "train"}:
        data = load_data(options.work)
        if "dataset" in stages:
            write_dataset(options.dataset, data.pictures, data.rendered)
        if "train" in stages:
            print(train(data, plan, options.work, options.device, options.out))
    if "evaluate" in stages:
        for evaluation in evaluate_checkpoint(options.out, options.dataset):
            print(f"\n{report.format_table(evaluation)}")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}; expected 1 or more")
    return number


if __name__ == "__main__":
    with stop_on_signals():
        sys.exit(main())
