"""Builds prompts: text, instruction and the places of pictures become token ids.

A prompt is built from ids, part by part, and never as one string. Special tokens come from the
profile, and the user's text is tokenized with special tokens switched off. So `<|image_pad|>`
inside a user's text is ordinary text; the reference would take it for a picture. The
tokenizer treats the parts between special tokens separately, so the ids equal those of the rendered
chat template.
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


class PromptBuilder:
    """Builds prompts for one profile.

    Args:
        tokenizer_file: path of the serving checkpoint's `tokenizer.json`.
        profile: profile of the serving checkpoint.
    """

    def __init__(self, tokenizer_file: Path, profile: Profile) -> None:
        self._profile = profile
        self._tokens = profile.prompt.tokens
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.encode_special_tokens = True  # encodes them as ordinary text
        self._newline = self._encode("\n")
        self._default_system_message = self._system_message(profile.prompt.instruction)

    def ids(
        self, text: str | None, image_tokens: Sequence[int], instruction: str | None
    ) -> NDArray[np.int32]:
        """Builds the token ids of one item.

        Args:
            text: the user's text; None if there is none.
            image_tokens: number of tokens of each picture.
            instruction: replacement for the profile's instruction. None keeps the profile's, and so
                does one without any text, as in the official embedder.

        Returns:
            (T,) int32.

        Raises:
            InvalidInputError: The prompt is longer than the profile's `max_tokens`.
        """
        tokens = self._tokens
        ids = (
            list(self._default_system_message)
            if instruction is None or not instruction.strip()
            else self._system_message(instruction)
        )
        ids.append(tokens[IM_START])
        if image_tokens:
            ids += self._encode("user\n")
            for count in image_tokens:
                ids += [tokens[VISION_START], *[tokens[IMAGE_PAD]] * count, tokens[VISION_END]]
            ids += self._encode(text or "")
        else:
            ids += self._encode(f"user\n{text or ''}")  # one part, so one call
        ids += [tokens[IM_END], *self._newline]
        if self._profile.prompt.generation_prompt:
            ids += [tokens[IM_START], *self._encode("assistant\n")]
        if self._profile.prompt.append_endoftext:
            ids.append(tokens[ENDOFTEXT])
        if len(ids) > self._profile.max_tokens:
            picture_tokens = sum(image_tokens)
            raise InvalidInputError(
                f"the prompt has {len(ids)} tokens ({picture_tokens} of them of pictures); at most "
                f"{self._profile.max_tokens}; shorten the text or send fewer pictures",
                field="text" if len(ids) - picture_tokens > picture_tokens else "image",
            )
        return np.array(ids, dtype=np.int32)

    def _system_message(self, instruction: str) -> list[int]:
        instruction = with_final_punctuation(instruction)
        if not instruction:
            return []
        start, end = self._tokens[IM_START], self._tokens[IM_END]
        return [start, *self._encode(f"system\n{instruction}"), end, *self._newline]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def with_final_punctuation(instruction: str) -> str:
    """Strips an instruction and makes it end in punctuation, as the official embedder does.

    Source: Qwen3-VL-Embedding `format_model_input`, which adds a full stop if the last character is
    not in one of the Unicode categories P*.
    """
    instruction = instruction.strip()
    if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
        instruction += "."
    return instruction
