"""The server's start in the step `served`."""

import argparse
from contextlib import ExitStack

import pytest

from benchmarks.gpu.command.result_files import read_section
from benchmarks.gpu.measuring.context import Step
from benchmarks.gpu.steps import served
from lensemble.settings import Settings
from lensemble_contract.errors import DeadlineExceededError


@pytest.fixture
def step(tmp_path, checkpoint):
    options = argparse.Namespace(
        out=tmp_path, work=tmp_path, bundle=tmp_path, device="cuda", shape="tiny", instances=3
    )
    step = Step("served", options)
    step.checkpoint = lambda: checkpoint
    return step


class FakeServer:
    """Records how it was started; the first one does not become ready."""

    started: list["FakeServer"]

    def __init__(self, settings, *, repository=None, start_timeout_s, start_tries):
        self.settings, self.repository = settings, repository
        self.start_timeout_s, self.start_tries = start_timeout_s, start_tries
        FakeServer.started.append(self)

    def __enter__(self):
        if len(FakeServer.started) == 1:
            raise DeadlineExceededError("not ready")
        assert self.repository.is_dir()
        return self

    def __exit__(self, *_):
        pass


def test_server_that_does_not_start_is_tried_once_more_without_tritons_gpu(step, monkeypatch):
    FakeServer.started = []
    monkeypatch.setattr(served, "TritonServer", FakeServer)
    with ExitStack() as stack:
        server = served.start_server(step, stack)
        first, second = FakeServer.started
        assert server is second
        # With "auto" a server on the CPU would be measured if Triton finds no GPU.
        assert (first.settings.device, second.settings.device) == ("cuda", "cuda")
        assert {each.start_tries for each in FakeServer.started} == {1}
        assert first.settings.preprocess_instances == 3
    (row,) = read_section(step.out, "served")["rows"]
    assert row["start"] == "as usual" and "not ready" in row["failed"]


def test_triton_uses_no_gpu_in_the_fallback(tmp_path, checkpoint):
    folder = served.on_cpu_for_triton(Settings(checkpoint=checkpoint), tmp_path / "models")
    text = (folder / "qwen3_vl" / "config.pbtxt").read_text()
    assert "KIND_CPU" in text and "KIND_AUTO" not in text
