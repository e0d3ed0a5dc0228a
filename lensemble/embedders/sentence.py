"""Texts and descriptions -> unit vectors, with a sentence-transformers model.

Reimers and Gurevych 2019, "Sentence-BERT" (arXiv:1908.10084). An item's own text stands before the
description of its pictures, on a line of its own; what is too long for the model is cut from the
end of the description, never from the caller's text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lensemble.embedders import jpegs, model_files
from lensemble.encoder.micro_batches import encode_with_halving
from lensemble.encoder.precision import precisions_to_try
from lensemble.settings import Settings
from lensemble.vectors import Vector
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError

logger = logging.getLogger(__name__)

FIELD = "LENSEMBLE_SENTENCE"


@dataclass(frozen=True, slots=True)
class Said:
    """One item, in words.

    Attributes:
        text: Its own; empty if it has none.
        description: Of its pictures; empty if it has none.
        chat_tokens: That the description cost.
    """

    text: str
    description: str
    chat_tokens: int

    @property
    def whole(self) -> str:
        """What is embedded."""
        return "\n".join(part for part in (self.text, self.description) if part)


@dataclass(frozen=True, slots=True)
class Made:
    """A vector, and what it took.

    Attributes:
        vector: (D,) float32, unit length.
        tokens: Of the text that was embedded, and of its description.
    """

    vector: Vector
    tokens: int


class SentenceEncoder:
    """Encodes texts with one sentence-transformers model.

    Args:
        settings: Model, precision; and the chat model, which the profile names.
        device: A torch device, such as `cpu` or `cuda:0`.

    Attributes:
        profile: Hash of what the vectors depend on, the chat model and its prompt included.
        dimension: Length of a vector.
    """

    def __init__(self, settings: Settings, device: str) -> None:
        from sentence_transformers import SentenceTransformer

        assert settings.sentence is not None
        folder = model_files.find(settings.sentence, FIELD)
        self.device = torch.device(device)
        self.dtype = precisions_to_try(settings.dtype, self.device)[-1]
        self._model: Any = SentenceTransformer(
            str(folder),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": self.dtype},
        )
        self.dimension = int(self._model.get_embedding_dimension())
        self.max_tokens = int(self._model.max_seq_length or self._model.tokenizer.model_max_length)
        self.profile = model_files.made_under(
            embedder="hybrid",
            content=model_files.content(folder),
            chat_model=settings.chat_model,
            prompt=settings.describe_prompt,
            tokens=settings.describe_tokens,
            shown=[jpegs.LONGEST_SIDE, jpegs.QUALITY],
        )
        logger.info("%s on %s in %s", settings.sentence, self.device, self.dtype)

    def encode(self, items: Sequence[Said]) -> list[Made | LensembleError]:
        """Encodes items together.

        Args:
            items: Any number.

        Returns:
            For each item, in order: its vector and what it took, or its error.
        """
        results: dict[int, Made | LensembleError] = {}
        sound: list[tuple[int, str, int]] = []
        for n, item in enumerate(items):
            whole = item.whole
            tokens, own = self._count(whole), self._count(item.text)
            if not whole:
                results[n] = InvalidInputError("the item is empty", field=contract.OWN_TEXT.name)
            elif own > self.max_tokens:
                results[n] = InvalidInputError(
                    f"{own} tokens; the embedder {contract.HYBRID!r} takes at most "
                    f"{self.max_tokens}; shorten it",
                    field=contract.TEXT.name,
                )
            else:
                sound.append((n, whole, min(tokens, self.max_tokens) + item.chat_tokens))
        if sound:
            vectors = encode_with_halving([text for _, text, _ in sound], self._vectors)
            for (n, _, tokens), vector in zip(sound, vectors, strict=True):
                results[n] = vector if isinstance(vector, LensembleError) else Made(vector, tokens)
        return [results[n] for n in range(len(items))]

    def _count(self, text: str) -> int:
        # `verbose` would warn of a length that is seen to here.
        found = self._model.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        return len(found) if text else 0

    def _vectors(self, texts: Sequence[str]) -> Vector:
        """Texts -> (N, D) float32, unit length."""
        made: Vector = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(made, np.float32)
