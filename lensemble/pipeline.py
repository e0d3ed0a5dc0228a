"""The served way in one process, without Triton: for building indexes, and as its reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lensemble.checkpoint import Checkpoint
from lensemble.config import Settings
from lensemble.encoder import Embedding, Encoder
from lensemble.features import Features
from lensemble.preprocess import Preprocessor
from lensemble_client.errors import LensembleError
from lensemble_client.items import Item


class Pipeline:
    """Items in, vectors out.

    Args:
        settings: Checkpoint, precision, device, budgets.
    """

    def __init__(self, settings: Settings) -> None:
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.checkpoint = Checkpoint.open(settings.checkpoint)
        self.preprocess = Preprocessor(self.checkpoint)
        self.encoder = Encoder.load(self.checkpoint, settings, device)

    def embed(self, items: Sequence[Item]) -> list[Embedding | LensembleError]:
        """Embeds items; each result is a vector (D,) or that item's own error, in order."""
        features: list[Features | LensembleError] = []
        for item in items:
            try:
                features.append(self.preprocess(item))
            except LensembleError as error:
                features.append(error)
        vectors = iter(
            self.encoder.encode([f for f in features if not isinstance(f, LensembleError)])
        )
        return [f if isinstance(f, LensembleError) else next(vectors) for f in features]
