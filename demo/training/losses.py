"""The losses, each as a mean over all Matryoshka lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from lensemble.encoder.pooling import normalize


class ContrastiveLoss(nn.Module):
    """Symmetric contrastive loss (InfoNCE) at every Matryoshka length, with a learnt temperature.

    Sources: Radford et al. 2021 (CLIP, arXiv:2103.00020) for the symmetric loss, the initial
    temperature of 0.07 and the largest scale of 100; Kusupati et al. 2022 (arXiv:2205.13147) for
    the sum over lengths.

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
        """Returns the loss of one batch.

        Args:
            vectors: (pictures + queries, D) float32; pictures first, texts last.
            pictures: Number of pictures.
            texts: Number of queries that are texts; each picture has exactly one.
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


def variant_loss(
    queries: torch.Tensor,
    pictures: torch.Tensor,
    relevant: torch.Tensor,
    own: torch.Tensor,
    dimensions: Sequence[int],
    scale: float = 20.0,
) -> torch.Tensor:
    """Returns a contrastive loss with several relevant pictures per query.

    It is the mean over pairs of a query and a relevant picture p of
    log(1 + sum over irrelevant pictures n of exp(s_n - s_p)). Relevant pictures do not compete
    with each other, unlike in Khosla et al. 2020 (arXiv:2004.11362), where they are part of the
    sum.

    Args:
        queries: (Q, D) float32.
        pictures: (N, D) float32.
        relevant: (Q, N) bool.
        own: (Q,) int64, the picture that each query was made from, which is ignored.
        dimensions: Lengths at which vectors are cut.
        scale: Inverse of the temperature.

    Returns:
        Scalar, the mean over the lengths; all queries have the same weight.
    """
    positive = relevant.scatter(1, own[:, None], value=False)
    negative = ~relevant.scatter(1, own[:, None], value=True)
    losses = []
    for dimension in dimensions:
        cut_queries = normalize(queries[:, :dimension])
        cut_pictures = normalize(pictures[:, :dimension])
        scores = scale * cut_queries @ cut_pictures.T
        negatives = scores.masked_fill(~negative, -torch.inf).logsumexp(1, keepdim=True)
        pair_losses = functional.softplus(negatives - scores).where(positive, 0.0)
        losses.append((pair_losses.sum(1) / positive.sum(1)).mean())
    return torch.stack(losses).mean()


def mean_cosine_distance(
    vectors: torch.Tensor, others: torch.Tensor, dimensions: Sequence[int]
) -> torch.Tensor:
    """Returns the mean of 1 - cosine between two sets of vectors, row by row.

    Args:
        vectors: (N, D) float32.
        others: (N, D) float32.
        dimensions: Lengths at which vectors are cut.

    Returns:
        Scalar, the mean over items and lengths.
    """
    cosines = [
        functional.cosine_similarity(vectors[:, :length], others[:, :length]).mean()
        for length in dimensions
    ]
    return 1 - torch.stack(cosines).mean()
