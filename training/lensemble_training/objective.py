"""The loss: each query must find its picture, and each picture its text, at every cut length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from lensemble.pooling import normalize


class Objective(nn.Module):
    """Contrastive both ways (InfoNCE), at every Matryoshka length, with a learnt temperature.

    Sources: Radford et al. 2021 (CLIP, arXiv:2103.00020) for the symmetric loss, the start at 0.07
    and the limit of 100; Kusupati et al. 2022 (arXiv:2205.13147) for the sum over lengths.

    Args:
        dimensions: Lengths at which vectors are cut.
    """

    def __init__(self, dimensions: Sequence[int]) -> None:
        super().__init__()
        self._dimensions = tuple(dimensions)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(
        self, vectors: torch.Tensor, pictures: int, texts: int, targets: torch.Tensor
    ) -> torch.Tensor:
        """The loss of one batch.

        Args:
            vectors: (pictures + queries, D) float32; pictures first, texts last.
            pictures: How many.
            texts: How many of the queries are texts; each picture has exactly one.
            targets: (queries,) int64, the picture that each query means.

        Returns:
            Scalar, the mean over the lengths.
        """
        scale = self.log_scale.exp().clamp(max=100)
        text_of = torch.empty(pictures, dtype=torch.int64, device=vectors.device)
        text_of[targets[-texts:]] = torch.arange(texts, device=vectors.device)
        losses = []
        for dimension in self._dimensions:
            cut = normalize(vectors[:, :dimension])
            scores = scale * cut[pictures:] @ cut[:pictures].T
            losses.append(functional.cross_entropy(scores, targets))
            losses.append(functional.cross_entropy(scores[-texts:].T, text_of))
        return torch.stack(losses).mean()
