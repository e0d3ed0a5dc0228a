"""CPUs use ONNX Runtime if there are graphs that give the same vectors faster."""

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from lensemble.checkpoint import Checkpoint
from lensemble.encoder import choose_engine
from lensemble.encoder.choose_engine import load_engine, speed_ratio
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.onnx.graph_files import TEXT, VISION, ExportedGraphs
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError
from tests.profiles import write_fake_checkpoint
from tests.waiting import FakeClock

SPEC = InputSpec(vocab_size=1000, image_token_id=999, merge_size=2, num_grid_per_side=48)
EAST, NORTH = np.eye(2, dtype=np.float32)


class FakeEngine:
    """Gives every item the same vector, and advances a clock.

    One item takes `single_s` seconds, several take `batch_s`.
    """

    device = SimpleNamespace(type="cpu")
    input_spec = SPEC

    def __init__(self, engine_name, vector=EAST, clock=None, single_s=1.0, batch_s=1.0):
        self.engine_name, self.vector = engine_name, vector
        self.clock = clock or FakeClock()
        self.single_s, self.batch_s = single_s, batch_s

    def encode(self, items):
        self.clock.advance(self.single_s if len(items) == 1 else self.batch_s)
        return [self.vector for _ in items]

    def trim_memory(self):
        pass


@pytest.fixture
def folder(tmp_path):
    """A serving checkpoint with a folder for graphs; neither is loaded."""
    (tmp_path / "onnx").mkdir()
    return write_fake_checkpoint(tmp_path)


@pytest.fixture
def fake_torch(monkeypatch):
    """Replaces the module of PyTorch's engine, which takes seconds to import."""
    engine = FakeEngine("torch")
    module = SimpleNamespace(load_torch_engine=lambda *_: engine)
    monkeypatch.setitem(sys.modules, "lensemble.encoder.pytorch.load_torch_engine", module)
    return engine


@pytest.fixture
def fake_onnx(monkeypatch):
    """Replaces the engine on ONNX Runtime."""
    engine = FakeEngine("onnx")
    monkeypatch.setattr(choose_engine, "_load_onnx", lambda *_: engine)
    return engine


def chosen_engine(folder, **settings):
    opened = Checkpoint.open(folder)
    return load_engine(opened, Settings(checkpoint=folder, **settings)).engine_name


@pytest.mark.parametrize(("ratio", "expected"), [(1.2, "onnx"), (1.05, "torch")])
def test_faster_engine_is_used(folder, fake_torch, fake_onnx, monkeypatch, ratio, expected):
    monkeypatch.setattr(choose_engine, "speed_ratio", lambda engine, base: ratio)
    assert chosen_engine(folder) == expected
    assert chosen_engine(folder, engine="torch") == "torch"
    assert chosen_engine(folder, engine="onnx") == "onnx"


def test_graphs_with_different_vectors_are_not_used(folder, fake_torch, fake_onnx, monkeypatch):
    monkeypatch.setattr(choose_engine, "speed_ratio", lambda engine, base: 9.0)
    fake_onnx.vector = NORTH
    assert chosen_engine(folder) == "torch"


def test_without_graphs_pytorch_is_used(folder, fake_torch, fake_onnx, monkeypatch):
    monkeypatch.setattr(choose_engine, "speed_ratio", lambda engine, base: 9.0)
    (folder / "onnx").rmdir()
    assert chosen_engine(folder) == "torch"


def test_missing_graphs_are_an_error_if_onnx_is_asked_for(folder):
    with pytest.raises(InvalidInputError, match=r"has no export\.json"):
        chosen_engine(folder, engine="onnx")


def test_damaged_graphs_are_not_used(folder, fake_torch, caplog):
    files = {name: ("sha256", 1000) for name in (VISION, TEXT)}
    profile = Checkpoint.open(folder).profile.hash
    ExportedGraphs(folder / "onnx", profile, "float32", 18, files).write()
    (folder / "onnx" / TEXT).write_bytes(b"no graph")
    assert chosen_engine(folder) == "torch"
    assert "is not the file that was exported" in caplog.text
    with pytest.raises(InvalidInputError, match="is not the file that was exported"):
        chosen_engine(folder, onnx=folder / "onnx")


def test_speed_ratio_weights_a_single_question_and_a_batch_equally(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(time, "perf_counter", clock)
    fast = FakeEngine("onnx", EAST, clock, single_s=0.1, batch_s=1.0)
    base = FakeEngine("torch", EAST, clock, single_s=0.2, batch_s=8.0)
    assert speed_ratio(fast, base) == pytest.approx(4)  # the square root of 2 * 8
