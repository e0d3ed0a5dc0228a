"""What a training step learns from: a loss per step. Two lessons, one after the other."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import nn

from demo.emoji.write_dataset import SAME_THING
from demo.training.batches import Batch, Batches
from demo.training.forward import vectors
from demo.training.objective import Objective, apart, variants
from lensemble.encoder.pytorch.torch_engine import TorchEngine


class Instances(nn.Module):
    """First lesson: every query means exactly one picture.

    Args:
        encoder: That learns.
        batches: Step -> batch.
        dimensions: Matryoshka lengths.
    """

    def __init__(
        self, encoder: TorchEngine, batches: Callable[[int], Batch], dimensions: Sequence[int]
    ) -> None:
        super().__init__()
        self._encoder, self._batches = encoder, batches
        self.objective = Objective(dimensions).to(encoder.device)

    def forward(self, step: int) -> torch.Tensor:
        """The loss of a step, with its graph."""
        batch = self._batches(step)
        made = vectors(self._encoder, batch.items)
        targets = batch.targets.to(made.device)
        loss: torch.Tensor = self.objective(made, batch.pictures, batch.texts, targets)
        return loss


class Variants(nn.Module):
    """Second lesson: under one instruction a picture means the others of its concept.

    Under every other instruction vectors stay where the first lesson put them. So the pictures that
    are searched stay as well, and the queries can be held against all of them without computing
    them again.

    Args:
        encoder: That learns.
        teacher: The same encoder before; it is not changed.
        batches: Step -> batch, none of it under `SAME_THING`.
        documents: (N, D) float32, what `teacher` makes of the pictures of `batches`, in order.
        concepts: N, of those pictures.
        dimensions: Matryoshka lengths.
        queries: How many a step.
        keep: Weight of staying, against that of finding variants.
        seed: Of the choice of queries.
    """

    def __init__(
        self,
        encoder: TorchEngine,
        teacher: TorchEngine,
        batches: Batches,
        documents: torch.Tensor,
        concepts: Sequence[str],
        dimensions: Sequence[int],
        *,
        queries: int = 64,
        keep: float = 80.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._encoder, self._teacher, self._batches = encoder, teacher, batches
        self._documents = documents.to(encoder.device)
        self._dimensions = tuple(dimensions)
        self._queries, self._keep, self._seed = queries, keep, seed
        numbers = {concept: n for n, concept in enumerate(dict.fromkeys(concepts))}
        self._concepts = torch.tensor([numbers[c] for c in concepts], device=encoder.device)
        sizes = Counter(concepts)
        self._asked = [n for n, concept in enumerate(concepts) if sizes[concept] > 1]
        # Half of the queries by picture, half by concept: some have 162 pictures, most have 5.
        self._weights = [0.5 / len(self._asked) for _ in self._asked]
        families = len({concepts[n] for n in self._asked})
        for at, n in enumerate(self._asked):
            self._weights[at] += 0.5 / families / sizes[concepts[n]]

    def forward(self, step: int) -> torch.Tensor:
        """The loss of a step, with its graph."""
        rng = random.Random(f"{self._seed}/variants/{step}")
        asked = rng.choices(self._asked, self._weights, k=self._queries)
        found = vectors(self._encoder, self._batches.views(asked, SAME_THING, rng))
        at = torch.tensor(asked, device=found.device)
        relevant = self._concepts[at][:, None] == self._concepts
        loss = variants(found, self._documents, relevant, at, self._dimensions)
        items = self._batches(step).items
        with torch.no_grad():
            before = vectors(self._teacher, items)
        return loss + self._keep * apart(vectors(self._encoder, items), before, self._dimensions)
