"""What a training run depends on: data, recipes, seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.emoji.concepts import Picture, load_pictures
from demo.emoji.render import render
from demo.emoji.sources import Keywords, font_file, keywords
from demo.training.batches import Sizes
from demo.training.train import Recipe

KEPT_BACK_SHARE = 0.1
INSTANCES = Recipe()
VARIANTS = Recipe(steps=400, learning_rate=6e-4, save_every=100)
KEPT = Sizes(pictures=72, views=24, changes=12, named=8)
"""What must stay where it is in a step of the second lesson: half a batch of the first."""


@dataclass(frozen=True, slots=True)
class Data:
    """Everything that is trained on and asked for.

    Attributes:
        pictures: Those that the font shows.
        rendered: Picture id -> (128, 128, 4) uint8 RGBA.
        words: Picture id -> language -> keywords.
        font: sha256 of the font file, in hexadecimal.
    """

    pictures: list[Picture]
    rendered: Mapping[str, NDArray[np.uint8]]
    words: Keywords
    font: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run depends on besides the data.

    Attributes:
        recipe: How to train what means one picture.
        variants: How to train, after that, what means all pictures of a concept.
        seed: Of weights and batches.
        validate: Whether a tenth of the training concepts is kept back, too.
    """

    recipe: Recipe = INSTANCES
    variants: Recipe = VARIANTS
    seed: int = 0
    validate: bool = False


def load_data(work: Path) -> Data:
    """Pictures, names and keywords.

    Args:
        work: Folder in which fetched packages are kept.

    Raises:
        InvalidInputError: Font or keywords cannot be had.
    """
    font = font_file(work)
    pictures = load_pictures()
    rendered = render(pictures, font, progress=True)
    shown = [picture for picture in pictures if picture.id in rendered]
    sha256 = hashlib.sha256(font.read_bytes()).hexdigest()
    return Data(shown, rendered, keywords(work, shown), sha256)


def trained_on(pictures: Sequence[Picture], plan: Plan) -> tuple[list[Picture], list[Picture]]:
    """What a run trains on, and what it keeps back to be watched.

    Args:
        pictures: All.
        plan: Of the run.

    Returns:
        Pictures of both kinds; held-out ones are in neither.
    """
    seen = [picture for picture in pictures if not picture.held_out]
    if not plan.validate:
        return seen, []
    concepts = sorted({picture.concept for picture in seen})
    count = round(KEPT_BACK_SHARE * len(concepts))
    kept_back = set(random.Random(plan.seed).sample(concepts, count))
    return (
        [picture for picture in seen if picture.concept not in kept_back],
        [picture for picture in seen if picture.concept in kept_back],
    )


def tokenizer_corpus(chosen: Sequence[Picture], words: Keywords) -> list[str]:
    """What the tokenizer's merges are learnt from: names and keywords of what is trained on."""
    corpus = [name for picture in chosen for name in picture.names.values()]
    for picture in chosen:
        corpus += [word for listed in words[picture.id].values() for word in listed]
    return corpus


def fingerprint(data: Data, plan: Plan, chosen: Sequence[Picture]) -> str:
    """Short hash of all that the first lesson depends on, so that no other run is resumed."""
    words = [(picture.id, picture.names, data.words[picture.id]) for picture in chosen]
    return _hash(asdict(plan) | {"variants": None, "font": data.font, "pictures": words})


def variants_fingerprint(plan: Plan) -> str:
    """Short hash of all that the second lesson depends on besides the first."""
    return _hash([asdict(plan.variants), asdict(KEPT)])


def _hash(said: object) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
