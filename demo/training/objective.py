"""The losses: what a query must find, and what must stay where it is, at every cut length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from lensemble.encoder.pooling import normalize


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


def variants(
    queries: torch.Tensor,
    documents: torch.Tensor,
    relevant: torch.Tensor,
    own: torch.Tensor,
    dimensions: Sequence[int],
    scale: float = 20.0,
) -> torch.Tensor:
    """Each relevant document against all that are not relevant, its own left out.

    The mean over (query, relevant document p) of log(1 + sum over others n of exp(s_n - s_p)):
    InfoNCE for many positives, none of which counts against another (Khosla et al. 2020,
    arXiv:2004.11362, have them in the sum).

    Args:
        queries: (Q, D) float32.
        documents: (N, D) float32.
        relevant: (Q, N) bool.
        own: (Q,) int64, the document that each query was made from; neither sought nor avoided.
        dimensions: Lengths at which vectors are cut.
        scale: One over the temperature.

    Returns:
        Scalar, the mean over the lengths; each query counts alike.
    """
    wanted = relevant.scatter(1, own[:, None], value=False)
    others = ~relevant.scatter(1, own[:, None], value=True)
    losses = []
    for dimension in dimensions:
        cut = normalize(queries[:, :dimension]), normalize(documents[:, :dimension])
        scores = scale * cut[0] @ cut[1].T
        against = scores.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
        each = functional.softplus(against - scores).where(wanted, 0.0)
        losses.append((each.sum(1) / wanted.sum(1)).mean())
    return torch.stack(losses).mean()


def apart(one: torch.Tensor, other: torch.Tensor, dimensions: Sequence[int]) -> torch.Tensor:
    """How far two sets of vectors are from each other: the mean of 1 - cosine.

    Args:
        one: (N, D) float32.
        other: (N, D) float32.
        dimensions: Lengths at which vectors are cut.

    Returns:
        Scalar, the mean over items and lengths.
    """
    cosines = [functional.cosine_similarity(one[:, :d], other[:, :d]).mean() for d in dimensions]
    return 1 - torch.stack(cosines).mean()
