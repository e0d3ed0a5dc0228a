"""Evaluates the demo checkpoint through a real server, and writes figures, plots and model card."""

from __future__ import annotations

from pathlib import Path

from demo.training.model_card import model_card, read_facts
from demo.training.training_plan import INSTANCES
from lensemble.operations.tritonserver import TritonServer
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble_client import Client
from lensemble_evaluation.dataset import load_dataset, splits
from lensemble_evaluation.evaluate import Evaluation, evaluate
from lensemble_evaluation.plots import plot_evaluation
from lensemble_evaluation.result_files import save_result


def evaluate_checkpoint(checkpoint: Path, dataset: Path) -> list[Evaluation]:
    """Evaluates every split of the dataset; results are written next to the weights.

    Args:
        checkpoint: Checkpoint that `run_training.train` wrote.
        dataset: Dataset that `demo.emoji.write_dataset` wrote.

    Returns:
        One evaluation per split, in the order of their names.

    Raises:
        InvalidInputError: The checkpoint or the dataset is incomplete.
        LensembleError: The server fails.
    """
    profile, facts = Profile.load(checkpoint), read_facts(checkpoint)
    lengths = sorted({*INSTANCES.dimensions, profile.dimension})
    loaded = [load_dataset(dataset, split) for split in splits(dataset)]
    evaluations = []
    with (
        TritonServer(Settings(checkpoint=checkpoint, dtype="fp32")) as server,
        Client(server.grpc_url) as client,
    ):
        for split in loaded:
            evaluation = evaluate(client, split, dimensions=lengths, progress=True)
            save_result(evaluation, checkpoint / f"evaluation-{evaluation.split}.json")
            plot_evaluation(evaluation, checkpoint / "plots")
            evaluations.append(evaluation)
    card = model_card(profile, facts, evaluations)
    (checkpoint / "README.md").write_text(card, "utf-8")
    return evaluations
