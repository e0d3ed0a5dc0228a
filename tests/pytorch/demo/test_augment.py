"""Damaged pictures."""

import numpy as np
import torch

from demo.emoji.augment import augment, premultiplied
from demo.emoji.render import on_white
from tests.pytorch.demo.shapes import RENDERED


def test_clean_pictures_are_only_put_on_white():
    pixels = np.stack(list(RENDERED.values()))
    clean = augment(premultiplied(pixels, 64), (64, 64), torch.Generator().manual_seed(0), 1.0)
    for picture, rgba in zip(clean, pixels, strict=True):
        expected = np.asarray(on_white(rgba, 64)).astype(int)
        augmented = picture.permute(1, 2, 0).numpy().astype(int)
        assert np.abs(augmented - expected).mean() < 3  # the two are made smaller in different ways
    damaged = augment(premultiplied(pixels, 96), (64, 96), torch.Generator().manual_seed(0), 0.0)
    assert damaged.shape == (len(pixels), 3, 64, 96)
    assert (damaged.float().std(dim=(1, 2, 3)) > 1).all()
