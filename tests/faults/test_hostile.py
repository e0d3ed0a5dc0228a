"""Hostile calls against the real server: typed answers, and nobody else notices."""

import itertools

import numpy as np
import pytest

from benchmarks.faults import bad
from benchmarks.faults.hostile import Hostile, hostile
from lensemble_contract.errors import InternalError, InvalidInputError

pytestmark = pytest.mark.e2e


def test_hostile_calls_have_typed_answers_and_touch_nobody(tmp_path):
    found = bad.run(600, tmp_path / "index", seed=1)
    assert found["wrong"] == {}
    assert (found["bad_inputs"], found["workers_died"], found["sound_touched"]) == (600, 0, 0)
    assert found["answers"]["InvalidInputError"] > 200
    assert found["answers"]["vector"] > 20


def test_calls_are_the_same_for_the_same_seed():
    kinds = [[one.kind for one in itertools.islice(hostile(3, 8), 300)] for _ in range(2)]
    assert kinds[0] == kinds[1]
    assert len(set(kinds[0])) > 80


def raises(error):
    def call(client):
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "answer", "wrong"),
    [
        (lambda client: np.array([0.6, 0.8], np.float32), "vector", None),
        (lambda client: np.array([0.6, 0.9], np.float32), "vector", "of length"),
        (lambda client: np.array([np.nan, 1], np.float32), "vector", "of length"),
        (raises(InvalidInputError("x; expected y")), "InvalidInputError", None),
        (raises(InvalidInputError(" ")), "InvalidInputError", "says nothing"),
        (raises(InternalError("boom")), "InternalError", "boom"),
        (raises(KeyError("k")), "KeyError", "no LensembleError"),
    ],
)
def test_answers_are_judged(call, answer, wrong):
    found, reason = bad.judged(Hostile("x", call), client=None)
    assert found == answer
    assert (reason is None) if wrong is None else (wrong in reason)
