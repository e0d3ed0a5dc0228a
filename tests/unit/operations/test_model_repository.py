"""The model repository that is written for a server, with its instance counts."""

import os
import subprocess
import sys

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lensemble.operations.model_repository import (
    packaged_models,
    with_instance_counts,
    write_repository,
)
from lensemble.settings import Settings
from lensemble_contract import contract


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "checkpoint"  # no test here reads it


def config(folder, model):
    text = (folder / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize(("cores", "expected"), [(1, 2), (2, 2), (6, 6), (64, 8)])
def test_preprocess_instances_follow_the_cores(monkeypatch, checkpoint, cores, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert with_instance_counts(Settings(checkpoint=checkpoint)).preprocess_instances == expected


def test_encoder_instances_share_the_cores(monkeypatch, checkpoint):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    threads = [
        Settings(checkpoint=checkpoint, encoder_instances=count).cpu_threads
        for count in (1, 3, 8, 20)
    ]
    assert threads == [8, 2, 1, 1]
    assert Settings(checkpoint=checkpoint, encoder_instances=3, threads=5).cpu_threads == 5


def test_only_the_counts_are_changed(checkpoint, tmp_path):
    settings = Settings(checkpoint=checkpoint, preprocess_instances=5, encoder_instances=3)
    target = tmp_path / "models"
    for _ in range(2):  # the second one replaces the first
        written = write_repository(settings, target)
        (written / "preprocess" / "leftover").touch()
    assert not (write_repository(settings, target) / "preprocess" / "leftover").exists()
    counts = {"preprocess": 5, "qwen3_vl": 3}
    assert {folder.name for folder in written.iterdir()} == set(contract.MODELS)
    for folder in (packaged_models() / name for name in contract.MODELS):
        copy, original = config(written, folder.name), config(packaged_models(), folder.name)
        if folder.name in counts:
            assert copy.instance_group[0].count == counts[folder.name]
            assert copy.instance_group[0].kind == original.instance_group[0].kind
            copy.instance_group[0].count = original.instance_group[0].count
        assert copy == original
        assert sorted(path.name for path in (written / folder.name / "1").iterdir()) == sorted(
            path.name for path in (folder / "1").iterdir() if path.name != "__pycache__"
        )


@pytest.mark.parametrize(
    ("device", "kind"), [("auto", "KIND_AUTO"), ("cuda", "KIND_AUTO"), ("cpu", "KIND_CPU")]
)
def test_encoder_and_index_are_on_gpus_unless_the_device_is_the_cpu(
    checkpoint, tmp_path, device, kind
):
    written = write_repository(Settings(checkpoint=checkpoint, device=device), tmp_path / "models")
    for name in ("qwen3_vl", "faiss"):
        (group,) = config(written, name).instance_group
        assert (group.Kind.Name(group.kind), group.count) == (kind, 1)
    for name in ("preprocess", "store"):
        (group,) = config(written, name).instance_group
        assert group.Kind.Name(group.kind) == "KIND_CPU"


def test_models_of_other_embedders_are_written_if_they_are_set_up(checkpoint, tmp_path):
    settings = Settings(checkpoint=checkpoint, clip="owner/clip")
    written = write_repository(settings, tmp_path / "models")
    clip = {model.name for model in contract.EMBEDDER_MODELS["clip"]}
    assert {folder.name for folder in written.iterdir()} == set(contract.MODELS) | clip


def test_editing_a_repository_does_not_change_the_package(checkpoint, tmp_path):
    written = write_repository(Settings(checkpoint=checkpoint), tmp_path / "models")
    original = (packaged_models() / "faiss" / "1" / "model.py").read_bytes()
    (written / "faiss" / "1" / "model.py").write_text("edited")
    assert (packaged_models() / "faiss" / "1" / "model.py").read_bytes() == original


def test_command_writes_the_repository_and_prints_its_folder(checkpoint, tmp_path):
    environment = {
        **os.environ,
        "LENSEMBLE_CHECKPOINT": str(checkpoint),
        "LENSEMBLE_PREPROCESS_INSTANCES": "4",
    }
    done = subprocess.run(
        [sys.executable, "-m", "lensemble.operations.model_repository", tmp_path / "models"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path / 'models'}\n"
    assert config(tmp_path / "models", "preprocess").instance_group[0].count == 4
