"""Preprocessing and encoding in one process, without Triton.

Index builds, training and benchmarks use it, and tests compare the served vectors with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.choose_engine import load_engine
from lensemble.preprocess.features import Features
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble.settings import Settings
from lensemble.vectors import Vector
from lensemble_contract.errors import LensembleError
from lensemble_contract.items import Item


class Pipeline:
    """Turns items into vectors.

    Args:
        settings: checkpoint, engine, precision, device and budgets.

    Attributes:
        checkpoint: the serving checkpoint.
        preprocess: preprocessor under the checkpoint's profile.
        encoder: engine with the checkpoint's weights.
    """

    def __init__(self, settings: Settings) -> None:
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.checkpoint = Checkpoint.open(settings.checkpoint)
        self.preprocess = Preprocessor(self.checkpoint, scaled=settings.jpeg == "scaled")
        self.encoder = load_engine(self.checkpoint, settings, device)

    def embed(
        self, items: Sequence[Item], dimensions: int | None = None
    ) -> list[Vector | LensembleError]:
        """Embeds items.

        Args:
            items: items to embed.
            dimensions: Matryoshka length of the vectors; None is the profile's full length.

        Returns:
            For each item, in order, its vector (D,), float32, unit length, or its own error.
        """
        results: list[Features | LensembleError] = []
        for item in items:
            try:
                results.append(self.preprocess(item))
            except LensembleError as error:
                results.append(error)
        features = [result for result in results if not isinstance(result, LensembleError)]
        vectors = iter(self.encoder.encode(features, [dimensions] * len(features)))
        return [
            result if isinstance(result, LensembleError) else next(vectors) for result in results
        ]
