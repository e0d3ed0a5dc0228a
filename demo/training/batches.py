"""The items of one training step: pictures, and queries that each mean one of them.

Queries are damaged views of the pictures, pictures with words (a change such as "the same, but
red", or the picture's own name), and texts. A batch depends only on the seed and the step, so that
training can be resumed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from demo.emoji import captions
from demo.emoji.augment import augment, premultiplied
from demo.emoji.concepts import LANGUAGES, Picture
from demo.emoji.write_dataset import SAME_THING
from demo.training.prompts import PromptsWithRandomCuts
from lensemble.checkpoint import Checkpoint
from lensemble.preprocess.features import Features
from lensemble.preprocess.patches import cut_patches
from lensemble_contract import contract

# Height and width in pixels -> weight of that size; most pictures are small because they are cheap.
SIZES = {
    (64, 64): 80,
    (96, 96): 6,
    (128, 128): 3,
    (64, 96): 3,
    (96, 64): 3,
    (96, 128): 2,
    (128, 96): 2,
}
LANGUAGE_WEIGHTS = (5, 5, 2, 2, 2, 2)
# The first is the profile's own instruction; one step in five uses another.
INSTRUCTIONS = (
    "Represent the user's input.",
    "Retrieve the picture that fits the text.",
    SAME_THING,
    "Busca imágenes parecidas.",
)


_NO_PICTURE = (np.empty((0, contract.PATCH_VALUES), np.uint8), np.empty((0, 3), np.int32))


@dataclass(frozen=True, slots=True)
class Batch:
    """The items of one step, ready to be packed.

    Attributes:
        items: Pictures, then queries.
        pictures: Number of pictures.
        texts: Number of queries that are only texts; they come last.
        targets: (queries,) int64, for each query the picture that it means.
    """

    items: list[Features]
    pictures: int
    texts: int
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """Largest number of each kind of item in a batch.

    Attributes:
        pictures: Pictures, and the same number of texts, one for each picture.
        views: Damaged views of some of the pictures.
        changes: Pictures with words that mean another picture ("the same, but ...").
        named: Damaged views with the picture's own name.
    """

    pictures: int = 128
    views: int = 48
    changes: int = 32
    named: int = 16


class Batches:
    """Makes the batch of each step.

    Args:
        pictures: Pictures to train on.
        rendered: Picture id -> (128, 128, 4) uint8 RGBA.
        checkpoint: Checkpoint with its tokenizer and profile.
        keywords: Picture id -> language -> other words for it; may be empty.
        sizes: Numbers of items of each kind.
        instructions: Instructions, the first of which is that of most batches.
        seed: Seed of all random choices.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        rendered: Mapping[str, NDArray[np.uint8]],
        checkpoint: Checkpoint,
        *,
        keywords: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        sizes: BatchSizes | None = None,
        instructions: Sequence[str] = INSTRUCTIONS,
        seed: int = 0,
    ) -> None:
        self._pictures = [picture for picture in pictures if picture.id in rendered]
        self._changes = captions.changes(self._pictures)
        stacked = np.stack([rendered[picture.id] for picture in self._pictures])
        self._pixels = {
            side: premultiplied(stacked, side) for side in sorted({max(size) for size in SIZES})
        }
        by_concept = defaultdict(list)
        for n, picture in enumerate(self._pictures):
            by_concept[picture.concept].append(n)
        self._by_concept = list(by_concept.values())
        self._keywords = keywords or {}
        self._sizes = sizes or BatchSizes()
        self._instructions, self._seed = instructions, seed
        self._profile = checkpoint.profile
        self._prompts = PromptsWithRandomCuts(checkpoint)

    def __call__(self, step: int) -> Batch:
        """Returns the batch of one step."""
        rng = random.Random(f"{self._seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        sizes = self._sizes
        changes = rng.sample(self._changes, min(sizes.changes, len(self._changes)))
        chosen = self._choose(changes, rng)
        position = {n: at for at, n in enumerate(chosen)}
        changes = [c for c in changes if c.source in position and c.target in position]
        instruction = (
            rng.choice(self._instructions) if rng.random() < 0.27 else self._instructions[0]
        )
        views = rng.sample(chosen, min(sizes.views, len(chosen)))
        named = rng.sample(chosen, min(sizes.named, len(chosen)))
        pictures = self._pictures_of(chosen, None, instruction, rng, generator)
        fused: list[tuple[int, int, str]] = [
            (c.source, c.target, self._change(c, rng)) for c in changes
        ] + [(n, n, self._caption(self._pictures[n], rng)) for n in named]
        picture_queries = self._pictures_of(
            [*views, *(source for source, _, _ in fused)],
            [*([""] * len(views)), *(words for _, _, words in fused)],
            instruction,
            rng,
            generator,
        )
        text_queries = [
            Features(
                self._prompts.ids(self._caption(self._pictures[n], rng), 0, instruction, rng),
                *_NO_PICTURE,
            )
            for n in chosen
        ]
        queries = [
            *zip(
                picture_queries,
                [position[n] for n in views] + [position[t] for _, t, _ in fused],
                strict=True,
            ),
        ]
        queries.sort(key=lambda query: len(query[0].input_ids))
        texts = sorted(enumerate(text_queries), key=lambda entry: len(entry[1].input_ids))
        return Batch(
            items=[*pictures, *(item for item, _ in queries), *(item for _, item in texts)],
            pictures=len(pictures),
            texts=len(texts),
            targets=torch.tensor([*(at for _, at in queries), *(at for at, _ in texts)]),
        )

    def views(self, chosen: Sequence[int], instruction: str, rng: random.Random) -> list[Features]:
        """Returns views of pictures, most of them damaged, all of one size.

        Args:
            chosen: Positions of the pictures.
            instruction: System message.
            rng: Source of size and damage.
        """
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        return self._pictures_of(chosen, None, instruction, rng, generator)

    def _choose(self, changes: Sequence[captions.Change], rng: random.Random) -> list[int]:
        """Chooses both pictures of each change, then one picture each of random concepts."""
        chosen = dict.fromkeys(n for c in changes for n in (c.source, c.target))
        concepts = rng.sample(self._by_concept, min(self._sizes.pictures, len(self._by_concept)))
        for concept in concepts:
            if len(chosen) >= self._sizes.pictures:
                break
            chosen[rng.choice(concept)] = None
        return list(chosen)[: self._sizes.pictures]

    def _caption(self, picture: Picture, rng: random.Random) -> str:
        (language,) = rng.choices(LANGUAGES, LANGUAGE_WEIGHTS)
        name = picture.names[language]
        words = self._keywords.get(picture.id, {}).get(language, ())
        if words and rng.random() < 0.35:
            name = " ".join(rng.sample(words, min(len(words), rng.choice((1, 2, 2, 3)))))
            if rng.random() < 0.3:
                name = f"{picture.names[language]} {name}"
        return captions.as_typed(name, language, rng)

    @staticmethod
    def _change(change: captions.Change, rng: random.Random) -> str:
        (language,) = rng.choices(LANGUAGES, LANGUAGE_WEIGHTS)
        text = rng.choice(captions.SAME_BUT[language]).format(change.words[language])
        return captions.as_typed(text, language, rng) if rng.random() < 0.2 else text

    def _pictures_of(
        self,
        chosen: Sequence[int],
        texts: Sequence[str] | None,
        instruction: str,
        rng: random.Random,
        generator: torch.Generator,
    ) -> list[Features]:
        """Returns features of pictures of one random size, most of them damaged.

        Args:
            chosen: Positions of the pictures.
            texts: Text beside each picture, empty for none; None if no picture has a text.
            instruction: System message.
            rng: Source of the size and of the cuts of texts.
            generator: Source of the damage.
        """
        (size,) = rng.choices(list(SIZES), list(SIZES.values()))
        damaged = augment(self._pixels[max(size)][torch.tensor(chosen)], size, generator)
        features = []
        for n, pixels in enumerate(damaged):
            rows, grid = cut_patches(pixels, self._profile.image)
            tokens = grid[1] * grid[2] // self._profile.image.merge_size**2
            ids = self._prompts.ids(texts[n] if texts else "", tokens, instruction, rng)
            features.append(Features(ids, rows, np.array([grid], np.int32)))
        return features
