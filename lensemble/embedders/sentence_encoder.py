"""Encodes texts and descriptions with a sentence-transformers model.

Reimers and Gurevych 2019, "Sentence-BERT" (arXiv:1908.10084). The text that is encoded is the
item's own text, a line break, and the description of its pictures. If that is too long for the
model, the end of the description is cut, and never the caller's text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lensemble.embedders import chat_input
from lensemble.embedders.model_files import find_model, model_content_hash, profile_hash
from lensemble.encoder.micro_batches.halving import encode_with_halving
from lensemble.encoder.precision import trusted_precision
from lensemble.gpu import require_device
from lensemble.settings import Settings
from lensemble.vectors import Vector
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError

logger = logging.getLogger(__name__)

SENTENCE_VARIABLE = "LENSEMBLE_SENTENCE"


@dataclass(frozen=True, slots=True)
class SentenceInput:
    """One item in words.

    Attributes:
        text: the item's own text; empty if it has none.
        description: description of its pictures; empty if it has none.
        chat_tokens: number of tokens that the description cost.
    """

    text: str
    description: str
    chat_tokens: int

    @property
    def combined(self) -> str:
        """Text and description, as they are encoded."""
        return "\n".join(part for part in (self.text, self.description) if part)


@dataclass(frozen=True, slots=True)
class SentenceResult:
    """A vector and its cost.

    Attributes:
        vector: (D,) float32, unit length.
        tokens: number of tokens of the encoded text, and of the request for its description.
    """

    vector: Vector
    tokens: int


class SentenceEncoder:
    """Encodes texts with one sentence-transformers model.

    Args:
        settings: model and precision; and the chat model and prompt, which change the profile.
        device: a torch device, such as `cpu` or `cuda:0`.

    Attributes:
        profile: hash of everything that changes a vector, chat model and prompt included.
        dimension: length D of a vector.

    Raises:
        InvalidInputError: There is no such model, or PyTorch cannot compute on the device.
    """

    def __init__(self, settings: Settings, device: str) -> None:
        from sentence_transformers import SentenceTransformer

        assert settings.sentence is not None
        folder = find_model(settings.sentence, SENTENCE_VARIABLE)
        require_device(device)
        self.device = torch.device(device)
        self.dtype = trusted_precision(settings.dtype, self.device)
        self._model: Any = SentenceTransformer(
            str(folder),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": self.dtype},
        )
        self.dimension = int(self._model.get_embedding_dimension())
        self.max_tokens = int(self._model.max_seq_length or self._model.tokenizer.model_max_length)
        # The keywords are part of the hash, so they stay as they are.
        self.profile = profile_hash(
            embedder="hybrid",
            content=model_content_hash(folder),
            chat_model=settings.chat_model,
            prompt=settings.describe_prompt,
            tokens=settings.describe_tokens,
            shown=[chat_input.LONGEST_SIDE, chat_input.JPEG_QUALITY],
        )
        logger.info("%s on %s in %s", settings.sentence, self.device, self.dtype)

    def encode(self, items: Sequence[SentenceInput]) -> list[SentenceResult | LensembleError]:
        """Encodes items together.

        Args:
            items: any number of items.

        Returns:
            For each item, in order, its vector and its cost, or its error.
        """
        results: dict[int, SentenceResult | LensembleError] = {}
        valid: list[tuple[int, str, int]] = []  # index, text to encode, tokens
        for n, item in enumerate(items):
            tokens, own_tokens = self._count_tokens(item.combined), self._count_tokens(item.text)
            if not item.combined:
                results[n] = InvalidInputError("the item is empty", field=contract.OWN_TEXT.name)
            elif own_tokens > self.max_tokens:
                results[n] = InvalidInputError(
                    f"{own_tokens} tokens; the embedder {contract.HYBRID!r} takes at most "
                    f"{self.max_tokens}; shorten it",
                    field=contract.TEXT.name,
                )
            else:
                cost = min(tokens, self.max_tokens) + item.chat_tokens
                valid.append((n, item.combined, cost))
        if valid:
            vectors = encode_with_halving([text for _, text, _ in valid], self._encode_texts)
            for (n, _, tokens), vector in zip(valid, vectors, strict=True):
                results[n] = (
                    vector if isinstance(vector, LensembleError) else SentenceResult(vector, tokens)
                )
        return [results[n] for n in range(len(items))]

    def _count_tokens(self, text: str) -> int:
        # `verbose` would warn of long texts, which are cut or refused.
        ids = self._model.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        return len(ids) if text else 0

    def _encode_texts(self, texts: Sequence[str]) -> Vector:
        """Texts -> (N, D) float32, unit length."""
        vectors = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)
