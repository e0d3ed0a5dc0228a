"""Which engine a CPU gets: ONNX Runtime where graphs are, give the same vectors, and are faster."""

import shutil
import time

import pytest

from lensemble.checkpoint import Checkpoint
from lensemble.encoder import choose_engine, precision
from lensemble.encoder.onnx.graph_files import TEXT
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError
from lensemble_export.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def with_graphs(checkpoint, tmp_path_factory):
    """A checkpoint with its graphs where servers look for them."""
    folder = tmp_path_factory.mktemp("engines") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    assert main(["onnx", str(folder)]) == 0
    return folder


def engine(folder, **settings):
    return choose_engine.load_engine(
        Checkpoint.open(folder), Settings(checkpoint=folder, **settings)
    ).engine


@pytest.mark.parametrize(("ratio", "expected"), [(1.2, "onnx"), (1.05, "torch")])
def test_the_faster_one_is_taken(with_graphs, monkeypatch, ratio, expected):
    monkeypatch.setattr(choose_engine, "gain", lambda encoder, base: ratio)
    assert engine(with_graphs) == expected
    assert engine(with_graphs, engine="torch") == "torch"
    assert engine(with_graphs, engine="onnx") == "onnx"


def test_without_graphs_it_is_pytorch(checkpoint):
    assert engine(checkpoint) == "torch"
    with pytest.raises(InvalidInputError, match="has no export"):
        engine(checkpoint, engine="onnx")


def test_graphs_with_other_vectors_are_not_taken(with_graphs, monkeypatch):
    monkeypatch.setattr(choose_engine, "gain", lambda encoder, base: 9.0)
    monkeypatch.setattr(precision, "MIN_COSINE", 1.1)
    assert engine(with_graphs) == "torch"


def test_damaged_graphs(with_graphs, tmp_path, caplog):
    damaged = tmp_path / "checkpoint"
    shutil.copytree(with_graphs, damaged)
    (damaged / "onnx" / TEXT).write_bytes(b"no graph")
    assert engine(damaged) == "torch"
    assert "is not the file that was exported" in caplog.text
    with pytest.raises(InvalidInputError, match="is not the file that was exported"):
        engine(damaged, onnx=damaged / "onnx")


class Timed:
    """Takes so many seconds alone and for many, by a clock that it moves."""

    def __init__(self, geometry, clock, alone, together):
        self.input_spec, self.clock = geometry, clock
        self.alone, self.together = alone, together

    def sound(self, items):
        self.clock[0] += self.alone if len(items) == 1 else self.together
        return []


def test_gain_weighs_a_lone_question_and_many_alike(pipeline, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    geometry = pipeline.encoder.input_spec
    one, base = Timed(geometry, clock, 0.1, 1.0), Timed(geometry, clock, 0.2, 8.0)
    assert choose_engine.gain(one, base) == pytest.approx(4)  # the root of 2 * 8
