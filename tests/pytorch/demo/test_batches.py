"""The content of a batch, and the random cuts of its texts."""

import random

import numpy as np
import torch

from demo.training.prompts import PromptsWithRandomCuts
from lensemble.checkpoint import Checkpoint


def equal(batch, other) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(batch.items, other.items, strict=True)
        for name in ("input_ids", "patches", "image_grid_thw")
    ) and torch.equal(batch.targets, other.targets)


def test_batch_depends_only_on_seed_and_step(batches, make_batches):
    again, other = make_batches(3), make_batches(4)
    assert equal(batches(7), again(7))
    assert not equal(batches(7), again(8))
    assert not equal(batches(7), other(7))


def test_batch_is_pictures_then_queries_with_texts_last(batches):
    batch = batches(0)
    queries = batch.items[batch.pictures :]
    assert (batch.pictures, batch.texts) == (12, 12)
    assert len(queries) == len(batch.targets)
    assert all(len(item.image_grid_thw) == 1 for item in batch.items[: -batch.texts])
    assert not any(len(item.image_grid_thw) for item in queries[-batch.texts :])
    assert sorted(batch.targets[-batch.texts :].tolist()) == list(range(12))


def test_words_are_cut_and_the_text_stays_the_same(initial):
    prompts = PromptsWithRandomCuts(Checkpoint.open(initial))
    rng = random.Random(0)
    plain = prompts._prompt.ids("purple circle", [], None)
    cut = [prompts.ids("purple circle", 0, "Represent the user's input.", rng) for _ in range(40)]
    assert any(np.array_equal(ids, plain) for ids in cut)
    assert any(len(ids) > len(plain) for ids in cut)
    decode = prompts._tokenizer.decode
    assert {decode(ids.tolist()) for ids in cut} == {decode(plain.tolist())}
