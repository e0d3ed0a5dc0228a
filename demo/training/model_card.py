"""The model card of the demo checkpoint: a template, filled in with facts and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from demo.emoji.concepts import LANGUAGES
from demo.emoji.write_dataset import DAMAGED, FUSED, SAME_THING, TEXT, VARIANTS
from lensemble.profile import Profile
from lensemble_contract.errors import InvalidInputError
from lensemble_evaluation.evaluate import ALL, Evaluation

TEMPLATE = "model_card.md"
FACTS_FILE = "training.json"

_METRIC = "recall_cap@10"


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """Facts about the training, which the card reports.

    Attributes:
        parameters: Number of parameters of the model.
        pictures: Number of pictures that were trained on.
        held_out: Number of held-out pictures.
        concepts: Number of held-out concepts.
        steps: Number of steps of the first phase, in which a query means one picture.
        variant_steps: Number of steps of the second phase, in which a picture means its concept.
        seed: Seed of weights and batches.
        hours: Hours that the steps took.
        machine: Machine that trained.
        font: SHA-256 of NotoColorEmoji.ttf, in hexadecimal.
        emoji: Version of the package `emoji`.
    """

    parameters: int
    pictures: int
    held_out: int
    concepts: int
    steps: int
    variant_steps: int
    seed: int
    hours: float
    machine: str
    font: str
    emoji: str


def has_facts(checkpoint: Path) -> bool:
    """Tells whether a folder has a file of facts."""
    return (checkpoint / FACTS_FILE).is_file()


def read_facts(checkpoint: Path) -> TrainingFacts:
    """Reads the facts about a checkpoint.

    Args:
        checkpoint: Folder of the checkpoint.

    Raises:
        InvalidInputError: The file is missing or not valid.
    """
    path = checkpoint / FACTS_FILE
    try:
        return TrainingFacts(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInputError(
            f"{str(path)!r} cannot be read ({error}); train the checkpoint first", field="out"
        ) from error


def write_facts(checkpoint: Path, facts: TrainingFacts) -> None:
    """Writes the facts into the folder of a checkpoint."""
    text = json.dumps(asdict(facts), indent=1) + "\n"
    (checkpoint / FACTS_FILE).write_text(text, "utf-8")


def model_card(profile: Profile, facts: TrainingFacts, evaluations: Sequence[Evaluation]) -> str:
    """Returns the card in Markdown.

    Args:
        profile: Profile of the checkpoint.
        facts: Facts about the training.
        evaluations: Evaluations, one per split of the dataset, with several dimensions.
    """
    template = (resources.files(__package__) / TEMPLATE).read_text("utf-8")
    return template.format(
        profile=profile,
        facts=facts,
        languages=", ".join(LANGUAGES),
        millions=facts.parameters / 1e6,
        metric=_METRIC,
        text=TEXT,
        damaged=DAMAGED,
        variants=VARIANTS,
        fused=FUSED,
        same_thing=SAME_THING,
        by_task=_by_task(evaluations),
        by_language=_by_language(evaluations),
        by_dimension=_by_dimension(evaluations),
    )


def _by_task(evaluations: Sequence[Evaluation]) -> str:
    lines = [
        "| split | pictures searched | task | queries | recall@1 | recall@5 | "
        f"{_METRIC} | nDCG@10 | MRR |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for evaluation in evaluations:
        for task in (TEXT, DAMAGED, VARIANTS, FUSED):
            row = evaluation.row(task)
            names = ("recall@1", "recall@5", _METRIC, "ndcg@10", "mrr")
            cells = " | ".join(f"{row.metrics[name]:.3f}" for name in names)
            split = f"{evaluation.split} | {evaluation.corpus:,}"
            lines.append(f"| {split} | {task} | {row.queries:,} | {cells} |")
    return "\n".join(lines)


def _by_language(evaluations: Sequence[Evaluation]) -> str:
    lines = [f"| split | {' | '.join(LANGUAGES)} |", f"|---|{'---|' * len(LANGUAGES)}"]
    for evaluation in evaluations:
        cells = (f"{evaluation.row(TEXT, lang).metrics[_METRIC]:.3f}" for lang in LANGUAGES)
        lines.append(f"| {evaluation.split} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_dimension(evaluations: Sequence[Evaluation]) -> str:
    held_out = next(e for e in evaluations if e.split == "held_out")
    lengths = sorted({row.dimensions for row in held_out.rows})
    lines = [f"| task | {' | '.join(map(str, lengths))} |", f"|---|{'---|' * len(lengths)}"]
    for task in (TEXT, DAMAGED, VARIANTS, FUSED):
        cells = (f"{held_out.row(task, ALL, n).metrics[_METRIC]:.3f}" for n in lengths)
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)
