"""The served way in one process, without Triton: for building indexes, and as its reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lensemble.checkpoint import Checkpoint
from lensemble.encoder import choose_engine
from lensemble.encoder.engine import Embedding
from lensemble.preprocess.features import Features
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble.settings import Settings
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item


class Pipeline:
    """Items in, vectors out.

    Args:
        settings: Checkpoint, engine, precision, device, budgets.
    """

    def __init__(self, settings: Settings) -> None:
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.checkpoint = Checkpoint.open(settings.checkpoint)
        self.preprocess = Preprocessor(self.checkpoint, scaled=settings.jpeg == "scaled")
        self.encoder = choose_engine.load(self.checkpoint, settings, device)

    def embed(
        self, items: Sequence[Item], dimensions: int | None = None
    ) -> list[Embedding | LensembleError]:
        """Embeds items.

        Args:
            items: What to embed.
            dimensions: Matryoshka length of the vectors; the profile's full one if None.

        Returns:
            For each item, in order, its vector (D,), float32, unit length, or its own error.
        """
        features: list[Features | LensembleError] = []
        for item in items:
            try:
                features.append(self.preprocess(item))
            except LensembleError as error:
                features.append(error)
        sound = [f for f in features if not isinstance(f, LensembleError)]
        vectors = iter(self.encoder.encode(sound, [dimensions] * len(sound)))
        return [f if isinstance(f, LensembleError) else next(vectors) for f in features]
