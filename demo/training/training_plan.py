"""The plan of a training run: recipes, seed, validation."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from demo.emoji.concepts import Picture
from demo.training.batches import BatchSizes
from demo.training.trainer import TrainingRecipe
from demo.training.training_data import TrainingData

# Share of the training concepts that a validating run keeps back.
KEPT_BACK_SHARE = 0.1
INSTANCES = TrainingRecipe()
VARIANTS = TrainingRecipe(steps=400, learning_rate=6e-4, save_every=100)
# Batch of items whose vectors must not change in the second phase: half a batch of the first phase.
UNCHANGED = BatchSizes(pictures=72, views=24, changes=12, named=8)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything that a run depends on, besides the data.

    Attributes:
        recipe: Recipe of the first phase, in which a query means one picture.
        variants: Recipe of the second phase, in which a picture also means its concept.
        seed: Seed of weights and batches.
        validate: Whether a tenth of the training concepts is kept back for validation.
    """

    recipe: TrainingRecipe = INSTANCES
    variants: TrainingRecipe = VARIANTS
    seed: int = 0
    validate: bool = False


def split_pictures(
    pictures: Sequence[Picture], plan: TrainingPlan
) -> tuple[list[Picture], list[Picture]]:
    """Returns the pictures to train on, and those that are kept back for validation.

    Args:
        pictures: All pictures; held-out ones are in neither list.
        plan: Plan of the run.
    """
    not_held_out = [picture for picture in pictures if not picture.held_out]
    if not plan.validate:
        return not_held_out, []
    concepts = sorted({picture.concept for picture in not_held_out})
    count = round(KEPT_BACK_SHARE * len(concepts))
    kept_back = set(random.Random(plan.seed).sample(concepts, count))
    return (
        [picture for picture in not_held_out if picture.concept not in kept_back],
        [picture for picture in not_held_out if picture.concept in kept_back],
    )


def fingerprint(data: TrainingData, plan: TrainingPlan, trained_on: Sequence[Picture]) -> str:
    """Returns a short hash of everything that the first phase depends on.

    It names the folder of a run, so that no other run is resumed from it.
    """
    words = [(picture.id, picture.names, data.keywords[picture.id]) for picture in trained_on]
    return _hash(asdict(plan) | {"variants": None, "font": data.font, "pictures": words})


def variants_fingerprint(plan: TrainingPlan) -> str:
    """Returns a short hash of everything that the second phase depends on besides the first."""
    return _hash([asdict(plan.variants), asdict(UNCHANGED)])


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
