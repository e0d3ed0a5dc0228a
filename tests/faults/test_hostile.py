"""Hostile calls against the real server get typed errors, and other calls are not affected."""

import itertools

import numpy as np
import pytest

from benchmarks.faults.hostile_calls import judge_answer, send_hostile_calls
from benchmarks.faults.hostile_inputs import HostileCall, hostile_calls
from lensemble_contract.errors import InternalError, InvalidInputError

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("calls", [100, pytest.param(600, marks=pytest.mark.slow)])
def test_hostile_calls_get_typed_errors_and_do_not_affect_others(tmp_path, calls):
    figures = send_hostile_calls(calls, tmp_path / "index", seed=1)
    assert figures["wrong"] == {}
    counts = figures["bad_inputs"], figures["workers_died"], figures["sound_touched"]
    assert counts == (calls, 0, 0)
    assert figures["answers"]["InvalidInputError"] > calls / 3
    assert figures["answers"]["vector"] > calls / 30


def test_calls_are_the_same_for_the_same_seed():
    kinds = [[c.kind for c in itertools.islice(hostile_calls(3, 8), 300)] for _ in range(2)]
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
        (raises(InvalidInputError(" ")), "InvalidInputError", "has no message"),
        (raises(InternalError("boom")), "InternalError", "boom"),
        (raises(KeyError("k")), "KeyError", "not a LensembleError"),
    ],
)
def test_answers_are_judged(call, answer, wrong):
    kind, reason = judge_answer(HostileCall("x", call), client=None)
    assert kind == answer
    assert (reason is None) if wrong is None else (wrong in reason)
