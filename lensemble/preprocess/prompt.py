"""Text, pictures' places and instruction -> token ids.

The prompt is built from ids, segment by segment, and never as one string: the special tokens come
from the profile, and what the user wrote is tokenized with special tokens switched off. So
`<|image_pad|>` inside a user's text is text, where the reference would take it for a picture.
Between special tokens the tokenizer treats each segment by itself, so the ids equal those of the
rendered chat template.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lensemble.profile import Profile
from lensemble_contract.errors import InvalidInputError

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
ENDOFTEXT = "<|endoftext|>"
TOKENS = (ENDOFTEXT, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)


class Prompt:
    """Builds prompts for one profile.

    Args:
        tokenizer_file: `tokenizer.json` of the serving checkpoint.
        profile: Its profile.
    """

    def __init__(self, tokenizer_file: Path, profile: Profile) -> None:
        self._profile = profile
        self._tokens = profile.prompt.tokens
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.encode_special_tokens = True  # the name means: as ordinary text
        self._newline = self._encode("\n")
        self._default_system = self._system(profile.prompt.instruction)

    def ids(
        self, text: str | None, image_tokens: Sequence[int], instruction: str | None
    ) -> NDArray[np.int32]:
        """Token ids of one item.

        Args:
            text: The user's text; None if there is none.
            image_tokens: For each picture, how many tokens it takes.
            instruction: Replaces the profile's instruction; None keeps it.

        Returns:
            (T,) int32.

        Raises:
            InvalidInputError: The prompt is longer than the profile's `max_tokens`.
        """
        tokens = self._tokens
        ids = list(self._default_system if instruction is None else self._system(instruction))
        ids.append(tokens[IM_START])
        if image_tokens:
            ids += self._encode("user\n")
            for count in image_tokens:
                ids += [tokens[VISION_START], *[tokens[IMAGE_PAD]] * count, tokens[VISION_END]]
            ids += self._encode(text or "")
        else:
            ids += self._encode(f"user\n{text or ''}")  # one segment, so one call
        ids += [tokens[IM_END], *self._newline]
        if self._profile.prompt.generation_prompt:
            ids += [tokens[IM_START], *self._encode("assistant\n")]
        if self._profile.prompt.append_endoftext:
            ids.append(tokens[ENDOFTEXT])
        if len(ids) > self._profile.max_tokens:
            pictures = sum(image_tokens)
            raise InvalidInputError(
                f"the prompt has {len(ids)} tokens ({pictures} of them pictures); at most "
                f"{self._profile.max_tokens}; shorten the text or send fewer pictures",
                field="text" if len(ids) - pictures > pictures else "image",
            )
        return np.array(ids, dtype=np.int32)

    def _system(self, instruction: str) -> list[int]:
        instruction = punctuated(instruction)
        if not instruction:
            return []
        start, end = self._tokens[IM_START], self._tokens[IM_END]
        return [start, *self._encode(f"system\n{instruction}"), end, *self._newline]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def punctuated(instruction: str) -> str:
    """The instruction as the official embedder sends it: stripped, ending in punctuation.

    Source: Qwen3-VL-Embedding `format_model_input`, which adds a full stop where the last
    character is not in a Unicode category P*.
    """
    instruction = instruction.strip()
    if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
        instruction += "."
    return instruction
