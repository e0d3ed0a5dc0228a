"""The training objectives: modules that compute the loss of a step. Two phases use one each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import nn

from demo.emoji.write_dataset import SAME_THING
from demo.training.batches import Batch, Batches
from demo.training.differentiable_encoding import encode_with_gradients
from demo.training.losses import ContrastiveLoss, mean_cosine_distance, variant_loss
from lensemble.encoder.pytorch.torch_engine import TorchEngine


class InstanceObjective(nn.Module):
    """First phase: every query means exactly one picture.

    Args:
        encoder: Encoder that is trained.
        batches: Function from a step to its batch.
        dimensions: Matryoshka lengths.
    """

    def __init__(
        self, encoder: TorchEngine, batches: Callable[[int], Batch], dimensions: Sequence[int]
    ) -> None:
        super().__init__()
        self._encoder, self._batches = encoder, batches
        self.loss = ContrastiveLoss(dimensions).to(encoder.device)

    def forward(self, step: int) -> torch.Tensor:
        """Returns the loss of a step, with its graph."""
        batch = self._batches(step)
        vectors = encode_with_gradients(self._encoder, batch.items)
        targets = batch.targets.to(vectors.device)
        loss: torch.Tensor = self.loss(vectors, batch.pictures, batch.texts, targets)
        return loss


class VariantObjective(nn.Module):
    """Second phase: under one instruction, a picture means the other pictures of its concept.

    Under every other instruction the vectors must stay those of the first phase. So the vectors of
    the searched pictures do not change either, and the queries can be compared with all of them
    without encoding them again.

    Args:
        encoder: Encoder that is trained.
        teacher: The encoder of the first phase, which is not changed.
        batches: Batches of items whose vectors must not change: none is under `SAME_THING`.
        picture_vectors: (N, D) float32, the teacher's vectors of the pictures of `batches`, in
            order.
        concepts: N concepts of those pictures.
        dimensions: Matryoshka lengths.
        queries: Number of queries per step.
        keep: Weight of unchanged vectors against that of finding variants.
        seed: Seed of the choice of queries.
    """

    def __init__(
        self,
        encoder: TorchEngine,
        teacher: TorchEngine,
        batches: Batches,
        picture_vectors: torch.Tensor,
        concepts: Sequence[str],
        dimensions: Sequence[int],
        *,
        queries: int = 64,
        keep: float = 80.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._encoder, self._teacher, self._batches = encoder, teacher, batches
        self._picture_vectors = picture_vectors.to(encoder.device)
        self._dimensions = tuple(dimensions)
        self._queries, self._keep, self._seed = queries, keep, seed
        numbers = {concept: n for n, concept in enumerate(dict.fromkeys(concepts))}
        self._concepts = torch.tensor([numbers[c] for c in concepts], device=encoder.device)
        sizes = Counter(concepts)
        self._candidates = [n for n, concept in enumerate(concepts) if sizes[concept] > 1]
        # Half of the queries are drawn by picture and half by concept: most concepts have 5
        # pictures, but some have 162.
        concept_count = len({concepts[n] for n in self._candidates})
        self._weights = [
            0.5 / len(self._candidates) + 0.5 / concept_count / sizes[concepts[n]]
            for n in self._candidates
        ]

    def forward(self, step: int) -> torch.Tensor:
        """Returns the loss of a step, with its graph."""
        rng = random.Random(f"{self._seed}/variants/{step}")
        chosen = rng.choices(self._candidates, self._weights, k=self._queries)
        queries = encode_with_gradients(self._encoder, self._batches.views(chosen, SAME_THING, rng))
        own = torch.tensor(chosen, device=queries.device)
        relevant = self._concepts[own][:, None] == self._concepts
        loss = variant_loss(queries, self._picture_vectors, relevant, own, self._dimensions)
        items = self._batches(step).items
        with torch.no_grad():
            before = encode_with_gradients(self._teacher, items)
        after = encode_with_gradients(self._encoder, items)
        return loss + self._keep * mean_cosine_distance(after, before, self._dimensions)
