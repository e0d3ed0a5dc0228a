"""The items of one training step: pictures, and queries that each mean one of them.

Queries are views of the pictures, views with words (a change such as "the same, but red", or the
picture's own name), and texts. A view is a picture in a random size, which `augment` has damaged
or, in a quarter of the cases, only put on white. The pictures of a batch are views, too. A batch
depends only on the seed and the step, so that training can be resumed.
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

# Height and width in pixels -> weight of that size in the random choice. Most pictures are small,
# because small ones are encoded faster.
PICTURE_SIZES = {
    (64, 64): 80,
    (96, 96): 6,
    (128, 128): 3,
    (64, 96): 3,
    (96, 64): 3,
    (96, 128): 2,
    (128, 96): 2,
}
# Weight of each of `LANGUAGES` in the random choice.
LANGUAGE_WEIGHTS = (5, 5, 2, 2, 2, 2)
# The first is the profile's own instruction, which most batches have.
INSTRUCTIONS = (
    "Represent the user's input.",
    "Retrieve the picture that fits the text.",
    SAME_THING,
    "Busca imágenes parecidas.",
)
# Share of the batches whose instruction is drawn from all of them, the first one included. So one
# batch in five has another than the first.
_DRAWN_INSTRUCTION_SHARE = 0.27


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
        views: Views of some of the pictures.
        changes: Views with words that mean another picture ("the same, but ...").
        named: Views with the picture's own name.
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
            side: premultiplied(stacked, side)
            for side in sorted({max(size) for size in PICTURE_SIZES})
        }
        by_concept = defaultdict(list)
        for position, picture in enumerate(self._pictures):
            by_concept[picture.concept].append(position)
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
        # Position of a picture -> its row among the pictures of the batch.
        row_of = {position: row for row, position in enumerate(chosen)}
        changes = [
            change for change in changes if change.source in row_of and change.target in row_of
        ]
        instruction = self._instructions[0]
        if rng.random() < _DRAWN_INSTRUCTION_SHARE:
            instruction = rng.choice(self._instructions)
        views = rng.sample(chosen, min(sizes.views, len(chosen)))
        named = rng.sample(chosen, min(sizes.named, len(chosen)))
        pictures = self._make_views(chosen, None, instruction, rng, generator)
        # For each query with a picture: the picture shown, the picture meant, the words beside it.
        shown_meant_words: list[tuple[int, int, str]] = [
            *((position, position, "") for position in views),
            *((change.source, change.target, self._in_words(change, rng)) for change in changes),
            *((position, position, self._caption(position, rng)) for position in named),
        ]
        query_views = self._make_views(
            [shown for shown, _, _ in shown_meant_words],
            [words for _, _, words in shown_meant_words],
            instruction,
            rng,
            generator,
        )
        picture_queries = [
            (view, row_of[meant])
            for view, (_, meant, _) in zip(query_views, shown_meant_words, strict=True)
        ]
        text_queries = [
            (self._make_text(self._caption(position, rng), instruction, rng), row)
            for row, position in enumerate(chosen)
        ]
        # The loss does not depend on the order within each of the two groups.
        queries = [
            *sorted(picture_queries, key=_token_count),
            *sorted(text_queries, key=_token_count),
        ]
        return Batch(
            items=[*pictures, *(features for features, _ in queries)],
            pictures=len(pictures),
            texts=len(text_queries),
            targets=torch.tensor([row for _, row in queries]),
        )

    def views(
        self, positions: Sequence[int], instruction: str, rng: random.Random
    ) -> list[Features]:
        """Makes a view of each picture, all of one random size.

        Args:
            positions: Positions of pictures in the list of the rendered ones.
            instruction: System message.
            rng: Source of the size and the damage.
        """
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        return self._make_views(positions, None, instruction, rng, generator)

    def _choose(self, changes: Sequence[captions.Change], rng: random.Random) -> list[int]:
        """Chooses both pictures of each change, then one picture each of random concepts.

        Returns:
            Their positions in the list of the rendered pictures.
        """
        # The keys of a dictionary keep their order, and each position is there once.
        chosen = dict.fromkeys(
            position for change in changes for position in (change.source, change.target)
        )
        concepts = rng.sample(self._by_concept, min(self._sizes.pictures, len(self._by_concept)))
        for concept in concepts:
            if len(chosen) >= self._sizes.pictures:
                break
            chosen[rng.choice(concept)] = None
        return list(chosen)[: self._sizes.pictures]

    def _caption(self, position: int, rng: random.Random) -> str:
        """Returns a picture's name or keywords, in a random language, as somebody might type it."""
        picture = self._pictures[position]
        (language,) = rng.choices(LANGUAGES, LANGUAGE_WEIGHTS)
        name = picture.names[language]
        words = self._keywords.get(picture.id, {}).get(language, ())
        if words and rng.random() < 0.35:
            name = " ".join(rng.sample(words, min(len(words), rng.choice((1, 2, 2, 3)))))
            if rng.random() < 0.3:
                name = f"{picture.names[language]} {name}"
        return captions.as_typed(name, language, rng)

    @staticmethod
    def _in_words(change: captions.Change, rng: random.Random) -> str:
        """Returns a change as a phrase in a random language, such as "the same, but red"."""
        (language,) = rng.choices(LANGUAGES, LANGUAGE_WEIGHTS)
        text = rng.choice(captions.SAME_BUT[language]).format(change.words[language])
        return captions.as_typed(text, language, rng) if rng.random() < 0.2 else text

    def _make_text(self, text: str, instruction: str, rng: random.Random) -> Features:
        """Returns the features of a text without a picture."""
        return Features(
            self._prompts.ids(text, 0, instruction, rng),
            np.empty((0, contract.PATCH_VALUES), np.uint8),
            np.empty((0, 3), np.int32),
        )

    def _make_views(
        self,
        positions: Sequence[int],
        texts: Sequence[str] | None,
        instruction: str,
        rng: random.Random,
        generator: torch.Generator,
    ) -> list[Features]:
        """Makes a view of each picture, all of one random size.

        Args:
            positions: Positions of pictures in the list of the rendered ones.
            texts: Text beside each picture, empty for none; None if no picture has a text.
            instruction: System message.
            rng: Source of the size and of the cuts of texts.
            generator: Source of the damage.
        """
        (size,) = rng.choices(list(PICTURE_SIZES), list(PICTURE_SIZES.values()))
        damaged = augment(self._pixels[max(size)][torch.tensor(positions)], size, generator)
        views = []
        for n, pixels in enumerate(damaged):
            patches, grid = cut_patches(pixels, self._profile.image)
            tokens = grid[1] * grid[2] // self._profile.image.merge_size**2
            ids = self._prompts.ids(texts[n] if texts else "", tokens, instruction, rng)
            views.append(Features(ids, patches, np.array([grid], np.int32)))
        return views


def _token_count(query: tuple[Features, int]) -> int:
    """Returns the number of tokens of a query, which is given with its target."""
    return len(query[0].input_ids)
