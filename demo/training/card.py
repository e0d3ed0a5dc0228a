"""The model card: what it is, what it was trained on, what it can do, what it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from demo.emoji.concepts import LANGUAGES
from demo.emoji.write_dataset import DAMAGED, FUSED, SAME_THING, TEXT, VARIANTS
from lensemble.profile import Profile
from lensemble_evaluation.evaluate import ALL, Evaluation

TEMPLATE = "card.md"

_METRIC = "recall_cap@10"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the card says of the training.

    Attributes:
        parameters: Of the model.
        pictures: Trained on.
        held_out: Not trained on.
        concepts: Held out.
        steps: In which a query learnt to mean one picture.
        variant_steps: In which, after that, a picture learnt to mean its concept.
        seed: Of weights and batches.
        hours: That the steps took.
        machine: On what.
        font: sha256 of NotoColorEmoji.ttf.
        emoji: Version of the package.
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


def card(profile: Profile, facts: Facts, evaluations: Sequence[Evaluation]) -> str:
    """The card in Markdown.

    Args:
        profile: Of the published checkpoint.
        facts: Of the training.
        evaluations: One per split of the dataset, with several dimensions.
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
    for found in evaluations:
        for task in (TEXT, DAMAGED, VARIANTS, FUSED):
            row = found.row(task)
            names = ("recall@1", "recall@5", _METRIC, "ndcg@10", "mrr")
            cells = " | ".join(f"{row.metrics[name]:.3f}" for name in names)
            lines.append(
                f"| {found.split} | {found.corpus:,} | {task} | {row.queries:,} | {cells} |"
            )
    return "\n".join(lines)


def _by_language(evaluations: Sequence[Evaluation]) -> str:
    lines = [f"| split | {' | '.join(LANGUAGES)} |", f"|---|{'---|' * len(LANGUAGES)}"]
    for found in evaluations:
        cells = (f"{found.row(TEXT, lang).metrics[_METRIC]:.3f}" for lang in LANGUAGES)
        lines.append(f"| {found.split} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_dimension(evaluations: Sequence[Evaluation]) -> str:
    held_out = next(found for found in evaluations if found.split == "held_out")
    lengths = sorted({row.dimensions for row in held_out.rows})
    lines = [f"| task | {' | '.join(map(str, lengths))} |", f"|---|{'---|' * len(lengths)}"]
    for task in (TEXT, DAMAGED, VARIANTS, FUSED):
        cells = (f"{held_out.row(task, ALL, n).metrics[_METRIC]:.3f}" for n in lengths)
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)
