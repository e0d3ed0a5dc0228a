"""The losses, against the same formulas written with loops."""

import pytest
import torch
from torch.nn import functional

from demo.training.losses import ContrastiveLoss, mean_cosine_distance, variant_loss


def test_contrastive_loss_is_the_mean_of_cross_entropies_in_both_directions():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3 + 5, 8, generator=generator)
    targets = torch.tensor([2, 0, 1, 2, 0])  # two other queries, then texts of pictures 1, 2, 0
    expected = []
    for length in (4, 8):
        unit = functional.normalize(vectors[:, :length])
        scores = unit[3:] @ unit[:3].T / 0.07
        expected.append(functional.cross_entropy(scores, targets))
        texts = scores[2:]
        expected.append(functional.cross_entropy(texts.T, torch.tensor([2, 0, 1])))
    loss = ContrastiveLoss((4, 8))(vectors, 3, 3, targets)
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)


def test_variant_loss_compares_each_variant_with_all_irrelevant_pictures():
    generator = torch.Generator().manual_seed(0)
    queries, pictures = (torch.randn(n, 8, generator=generator) for n in (2, 6))
    relevant = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]], dtype=torch.bool)
    own = torch.tensor([1, 3])
    expected = []
    for length in (4, 8):
        scores = 20 * (
            functional.normalize(queries[:, :length]) @ functional.normalize(pictures[:, :length]).T
        )
        for query, positives, negatives in ((0, (0, 2), (3, 4, 5)), (1, (4,), (0, 1, 2, 5))):
            pair_losses = [
                torch.log(
                    1 + sum(torch.exp(scores[query, n] - scores[query, p]) for n in negatives)
                )
                for p in positives
            ]
            expected.append(sum(pair_losses) / len(pair_losses))
    loss = variant_loss(queries, pictures, relevant, own, (4, 8))
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_mean_cosine_distance_is_one_minus_cosine():
    vectors = torch.tensor([[1.0, 0, 3, 0], [0, 2, 0, 0]])
    others = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    # At length 2 all cosines are 1; at length 4 the first is 1 / sqrt(10).
    assert mean_cosine_distance(vectors, others, (2,)).item() == pytest.approx(0, abs=1e-6)
    assert mean_cosine_distance(vectors, others, (2, 4)).item() == pytest.approx(
        (1 - 10**-0.5) / 4, abs=1e-6
    )
