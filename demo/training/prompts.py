"""Prompts for training, whose words are split at random places before they are tokenized."""

from __future__ import annotations

import itertools
import random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lensemble.checkpoint import TOKENIZER_FILE, Checkpoint
from lensemble.preprocess.prompt import IM_END, PromptBuilder

# Probability of a cut between two characters.
CUT_PROBABILITY = 0.03


class PromptsWithRandomCuts:
    """Prompts whose words are cut at random, so that the model also learns rare pieces of words.

    This has the effect of BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267), for which the
    tokenizer takes no seed. Only the user's text is cut; the rest of the prompt is that of
    `PromptBuilder`.

    Args:
        checkpoint: Checkpoint with its tokenizer and profile.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._prompt = PromptBuilder(checkpoint.folder / TOKENIZER_FILE, checkpoint.profile)
        self._tokenizer = Tokenizer.from_file(str(checkpoint.folder / TOKENIZER_FILE))
        self._tokenizer.encode_special_tokens = True
        self._end = checkpoint.profile.prompt.tokens[IM_END]

    def ids(
        self, text: str, image_tokens: int, instruction: str, rng: random.Random
    ) -> NDArray[np.int32]:
        """Returns token ids like `PromptBuilder.ids`, for at most one picture.

        Args:
            text: Text of the user, without white space at its ends.
            image_tokens: Number of tokens of the picture; 0 if there is none.
            instruction: System message.
            rng: Source of the cuts.

        Returns:
            (T,) int32.
        """
        ids = self._prompt.ids(None, [image_tokens] if image_tokens else [], instruction)
        if not text:
            return ids
        end = int(np.flatnonzero(ids == self._end)[-1])
        cuts = [n for n in range(1, len(text)) if rng.random() < CUT_PROBABILITY]
        text_ids: list[int] = []
        for start, stop in itertools.pairwise([0, *cuts, len(text)]):
            text_ids += self._tokenizer.encode(text[start:stop], add_special_tokens=False).ids
        return np.concatenate([ids[:end], np.array(text_ids, np.int32), ids[end:]])
