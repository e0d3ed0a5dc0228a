"""What one training step sees: pictures, and queries that each mean one of them.

Queries are damaged views of the pictures, pictures with words (the same but ..., or with its own
name), and texts. A batch depends on the seed and the step alone, so that training can be resumed.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from demo.emoji import captions
from demo.emoji.augment import augment, premultiplied
from demo.emoji.concepts import LANGUAGES, Picture
from demo.emoji.write_dataset import SAME_THING
from lensemble.checkpoint import TOKENIZER_FILE, Checkpoint
from lensemble.preprocess.features import Features
from lensemble.preprocess.patches import cut_patches
from lensemble.preprocess.prompt import IM_END, PromptBuilder
from lensemble_contract import contract

SIZES = {
    (64, 64): 80,
    (96, 96): 6,
    (128, 128): 3,
    (64, 96): 3,
    (96, 64): 3,
    (96, 128): 2,
    (128, 96): 2,
}
"""Height and width in pixels -> how often in a hundred steps; small ones are cheap."""
LANGUAGE_WEIGHTS = (5, 5, 2, 2, 2, 2)
CUTS = 0.03
"""Chance of a cut between two characters."""
INSTRUCTIONS = (
    "Represent the user's input.",
    "Retrieve the picture that fits the text.",
    SAME_THING,
    "Busca imágenes parecidas.",
)
"""The first is the profile's own; one step in five takes another."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's items, ready to be packed.

    Attributes:
        items: Pictures first, then queries.
        pictures: How many pictures.
        texts: How many of the queries are texts alone; they stand last.
        targets: (queries,) int64, for each query the picture that it means.
    """

    items: list[Features]
    pictures: int
    texts: int
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many of each kind stand in a batch, where there are enough.

    Attributes:
        pictures: And as many texts, one each.
        views: Damaged views of some of the pictures.
        changes: Pictures with words that mean another one ("the same, but ...").
        named: Damaged views with the picture's own name.
    """

    pictures: int = 128
    views: int = 48
    changes: int = 32
    named: int = 16


class Batches:
    """Makes batches.

    Args:
        pictures: What to train on.
        rendered: Picture id -> (128, 128, 4) uint8 RGBA.
        checkpoint: Tokenizer and profile.
        keywords: Picture id -> language -> other words for it; may be empty.
        sizes: Of a batch.
        instructions: The first is that of most batches.
        seed: The same seed gives the same batches.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        rendered: Mapping[str, NDArray[np.uint8]],
        checkpoint: Checkpoint,
        *,
        keywords: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        sizes: Sizes | None = None,
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
        self._sizes = sizes or Sizes()
        self._instructions, self._seed = instructions, seed
        self._profile = checkpoint.profile
        self._texts = Texts(checkpoint)

    def __call__(self, step: int) -> Batch:
        """The batch of one step."""
        rng = random.Random(f"{self._seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        sizes = self._sizes
        changes = rng.sample(self._changes, min(sizes.changes, len(self._changes)))
        chosen = self._choose(changes, rng)
        place = {n: at for at, n in enumerate(chosen)}
        changes = [c for c in changes if c.source in place and c.target in place]
        instruction = (
            rng.choice(self._instructions) if rng.random() < 0.27 else self._instructions[0]
        )
        views = rng.sample(chosen, min(sizes.views, len(chosen)))
        named = rng.sample(chosen, min(sizes.named, len(chosen)))
        pictures = self._pictures_of(chosen, None, instruction, rng, generator)
        fused: list[tuple[int, int, str]] = [
            (c.source, c.target, self._change(c, rng)) for c in changes
        ] + [(n, n, self._caption(self._pictures[n], rng)) for n in named]
        seen = self._pictures_of(
            [*views, *(source for source, _, _ in fused)],
            [*([""] * len(views)), *(words for _, _, words in fused)],
            instruction,
            rng,
            generator,
        )
        written = [
            Features(
                self._texts.ids(self._caption(self._pictures[n], rng), 0, instruction, rng),
                *_NO_PICTURE,
            )
            for n in chosen
        ]
        queries = [
            *zip(seen, [place[n] for n in views] + [place[t] for _, t, _ in fused], strict=True),
        ]
        queries.sort(key=lambda query: len(query[0].input_ids))
        texts = sorted(enumerate(written), key=lambda entry: len(entry[1].input_ids))
        return Batch(
            items=[*pictures, *(item for item, _ in queries), *(item for _, item in texts)],
            pictures=len(pictures),
            texts=len(texts),
            targets=torch.tensor([*(at for _, at in queries), *(at for at, _ in texts)]),
        )

    def views(self, chosen: Sequence[int], instruction: str, rng: random.Random) -> list[Features]:
        """Views of pictures, most of them damaged, all of one size.

        Args:
            chosen: Places in the pictures.
            instruction: System message.
            rng: Of size and damage.
        """
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        return self._pictures_of(chosen, None, instruction, rng, generator)

    def _choose(self, changes: Sequence[captions.Change], rng: random.Random) -> list[int]:
        """Pictures of a batch: both ends of the changes, then one each of random concepts."""
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
        return captions.written(name, language, rng)

    @staticmethod
    def _change(change: captions.Change, rng: random.Random) -> str:
        (language,) = rng.choices(LANGUAGES, LANGUAGE_WEIGHTS)
        said = rng.choice(captions.SAME_BUT[language]).format(change.words[language])
        return captions.written(said, language, rng) if rng.random() < 0.2 else said

    def _pictures_of(
        self,
        chosen: Sequence[int],
        texts: Sequence[str] | None,
        instruction: str,
        rng: random.Random,
        generator: torch.Generator,
    ) -> list[Features]:
        (size,) = rng.choices(list(SIZES), list(SIZES.values()))
        damaged = augment(self._pixels[max(size)][torch.tensor(chosen)], size, generator)
        made = []
        for n, pixels in enumerate(damaged):
            rows, grid = cut_patches(pixels, self._profile.image)
            tokens = grid[1] * grid[2] // self._profile.image.merge_size**2
            ids = self._texts.ids(texts[n] if texts else "", tokens, instruction, rng)
            made.append(Features(ids, rows, np.array([grid], np.int32)))
        return made


_NO_PICTURE = (np.empty((0, contract.PATCH_VALUES), np.uint8), np.empty((0, 3), np.int32))


class Texts:
    """Prompts whose words are cut at random, so that the pieces of unseen words look less strange.

    As BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267), which the tokenizer has without a
    seed. Only what the user wrote is cut so; the rest of the prompt is `PromptBuilder`'s.

    Args:
        checkpoint: Tokenizer and profile.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._prompt = PromptBuilder(checkpoint.folder / TOKENIZER_FILE, checkpoint.profile)
        self._tokenizer = Tokenizer.from_file(str(checkpoint.folder / TOKENIZER_FILE))
        self._tokenizer.encode_special_tokens = True
        self._end = checkpoint.profile.prompt.tokens[IM_END]

    def ids(
        self, text: str, image_tokens: int, instruction: str, rng: random.Random
    ) -> NDArray[np.int32]:
        """As `PromptBuilder.ids`, for at most one picture.

        Args:
            text: Neither begins nor ends with white space.
            image_tokens: Of the picture; 0 if there is none.
            instruction: System message.
            rng: Of the cuts.

        Returns:
            (T,) int32.
        """
        ids = self._prompt.ids(None, [image_tokens] if image_tokens else [], instruction)
        if not text:
            return ids
        end = int(np.flatnonzero(ids == self._end)[-1])
        places = [n for n in range(1, len(text)) if rng.random() < CUTS]
        words: list[int] = []
        for start, stop in itertools.pairwise([0, *places, len(text)]):
            words += self._tokenizer.encode(text[start:stop], add_special_tokens=False).ids
        return np.concatenate([ids[:end], np.array(words, np.int32), ids[end:]])
