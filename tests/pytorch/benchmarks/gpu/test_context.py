"""A step's rows: each is on the disk at once, and one that fails does not stop the next."""

import argparse

import pytest

from benchmarks.gpu.command.result_files import read_section
from benchmarks.gpu.measuring.context import Step


@pytest.fixture
def step(tmp_path):
    options = argparse.Namespace(
        out=tmp_path, work=tmp_path, bundle=tmp_path, device="cpu", shape=None, instances=2
    )
    return Step("peers", options)


def rows(step):
    return read_section(step.out, "peers")["rows"]


def test_each_row_is_on_the_disk_before_the_next(step):
    step.measure(lambda: {"ms": 1.0}, size=448)
    assert rows(step) == [{"size": 448, "ms": 1.0}]
    step.measure(lambda: {"ms": len(rows(step))}, size=1024)
    assert rows(step)[1] == {"size": 1024, "ms": 1}


def test_failure_of_a_row_is_recorded_and_the_next_is_measured(step):
    def fails():
        raise ValueError("too large")

    assert not step.measure(fails, size=448)
    assert step.measure(lambda: None, size=1024)
    assert rows(step) == [{"size": 448, "failed": "ValueError: too large"}, {"size": 1024}]
    with pytest.raises(SystemExit, match="1 of 2 rows failed"):
        step.finish()


def test_step_without_failures_ends_well(step):
    step.note(load_s=1.5)
    step.finish()
    section = read_section(step.out, "peers")
    assert section["load_s"] == 1.5
    assert section["params"] == {"shape": "tiny", "device": "cpu"}
    assert section["machine"]["gpu"] is None


def test_ceiling_is_the_first_product_that_was_measured(step):
    assert step.ceiling() is None
    other = Step("ceiling", argparse.Namespace(**{**vars(step), "shape": None, "device": "cpu"}))
    other.measure(lambda: {"gb_per_s": 3.0}, what="copy")
    other.measure(lambda: {"tflop_per_s": 790.0}, what="8192x8192x8192")
    other.measure(lambda: {"tflop_per_s": 600.0}, what="32768x1024x4096")
    assert step.ceiling() == 790.0
