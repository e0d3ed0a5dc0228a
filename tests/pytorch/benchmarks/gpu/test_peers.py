"""Contenders: order of items, and vectors and errors that count as failures."""

import argparse

import numpy as np
import pytest

from benchmarks.gpu.command.result_files import read_section
from benchmarks.gpu.measuring.contenders import Models, by_length, in_order
from benchmarks.gpu.measuring.context import Step
from benchmarks.gpu.steps.peers import SetComparison
from lensemble_client import InvalidInputError, Item

pytestmark = pytest.mark.slow  # it computes for tens of seconds


@pytest.fixture
def step(tmp_path, checkpoint):
    options = argparse.Namespace(
        out=tmp_path, work=tmp_path, bundle=tmp_path, device="cpu", shape=None, instances=2
    )
    step = Step("peers", options)
    step.checkpoint = lambda: checkpoint
    return step


def test_batches_have_items_of_similar_length_and_vectors_come_back_in_order():
    lengths = [5, 50, 7, 40, 6]
    parts = by_length(lengths, 2)
    assert parts == [[1, 3], [2, 4], [0]]
    vectors = [np.array([[lengths[n]] for n in part], np.float32) for part in parts]
    assert in_order(vectors, parts)[:, 0].tolist() == lengths


def test_contenders_give_the_same_vectors(step):
    items = [Item("red"), Item("a much longer text than that"), Item("blue and green")]
    models = Models(step)
    expected = models.packed(items)()
    for contender in (models.padded(items, 2), models.padded(items, 1)):
        assert (contender() * expected).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_packed_encoding_raises_if_an_item_fails(step):
    models = Models(step)
    contender = models.packed([Item("red")])
    (features,) = contender.args[0]
    features.input_ids[0] = -1
    with pytest.raises(InvalidInputError):
        contender()


def test_contender_with_other_vectors_or_an_error_is_no_rate(step):
    right, wrong = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[::-1]

    def fails():
        raise RuntimeError("out of memory")

    comparison = SetComparison(step, "mixed", [Item("a"), Item("b")])
    comparison.add("packed", lambda: lambda: right)
    comparison.add("wrong", lambda: lambda: wrong)
    comparison.add("broken", lambda: fails)
    assert set(comparison.rates) == {"packed"}
    rows = {row["contender"]: row for row in read_section(step.out, "peers")["rows"]}
    assert "cosine 0.0" in rows["wrong"]["failed"]
    assert "out of memory" in rows["broken"]["failed"]
