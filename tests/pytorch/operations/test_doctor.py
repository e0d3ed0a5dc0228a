import json
import shutil
import socket
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest
import torch

from lensemble import gpu
from lensemble.checkpoint import Checkpoint, sha256_of
from lensemble.encoder.onnx.graph_files import TEXT, VISION, ExportedGraphs
from lensemble.operations.doctor import FAULT, OK, WARNING, devices, examine, machine
from lensemble.settings import Settings
from lensemble_cli.main import main


def findings_by_subject(settings=None, ports=()):
    """The findings; those of the machine only without settings."""
    given = settings or Settings(checkpoint=Path())
    found = examine(given, ports, machine_only=settings is None)
    return {finding.subject: finding for finding in found}


def test_this_machine_can_serve(checkpoint, index_folder):
    findings = findings_by_subject(Settings(checkpoint=checkpoint, index=index_folder))
    assert {finding.level for finding in findings.values()} <= {OK, WARNING}
    assert findings["checkpoint"].level == findings["index"].level == OK
    assert "torch" in findings["packages"].text
    # The bundled server must be used on this machine only.
    assert "loopback" in findings["tritonserver"].remedy


@pytest.mark.parametrize(
    ("installed", "level", "text"),
    [
        ({"faiss-cpu": "1.15.1"}, OK, "faiss-cpu 1.15.1"),
        ({"faiss-gpu": "1.15.1"}, OK, "faiss-gpu 1.15.1"),
        ({"faiss-cpu": "1.12", "faiss-gpu": "1.15"}, FAULT, "are installed in the same folder"),
        ({"faiss-gpu-cu12": "1.14.1"}, OK, "faiss-gpu-cu12 1.14.1"),
        ({"faiss-cpu": "1.15", "faiss-gpu-cu12": "1.14"}, FAULT, "are installed in the same"),
        ({}, FAULT, "not installed"),
    ],
)
def test_one_faiss_must_be_installed(monkeypatch, installed, level, text):
    packages = [
        SimpleNamespace(name=name, version=version, files=[PurePosixPath("faiss/loader.py")])
        for name, version in installed.items()
    ]
    others = [SimpleNamespace(name="faiss-tools", version="1", files=[PurePosixPath("tools/a.py")])]
    monkeypatch.setattr(machine.importlib.metadata, "distributions", lambda: packages + others)
    (finding,) = machine.faiss()
    assert finding.level == level
    assert text in finding.text
    assert bool(finding.remedy) == (level == FAULT)
    assert all(name in finding.remedy for name in installed if level == FAULT)


def test_every_fault_has_a_remedy(checkpoint, index_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_PACKAGES", ("no-such-package",))
    monkeypatch.setattr(machine, "_MIN_SHARED_MEMORY", 2**60)
    monkeypatch.setenv("LENSEMBLE_DTYP", "fp32")
    broken = tmp_path / "index"
    shutil.copytree(index_folder, broken)
    (snapshot,) = (path for path in (broken / "snapshots").iterdir() if path.is_dir())
    for path in snapshot.iterdir():
        if path.suffix != ".json":
            path.write_bytes(b"x" + path.read_bytes()[1:])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        findings = findings_by_subject(Settings(checkpoint=checkpoint, index=broken), [port])
    assert findings["packages"].level == FAULT
    assert "no-such-package" in findings["packages"].text
    assert findings["/dev/shm"].level == FAULT
    assert findings["index"].level == FAULT
    assert findings["LENSEMBLE_DTYP"].level == WARNING
    assert f"taken: {port} by " in findings["ports"].text
    for finding in findings.values():
        assert finding.level == OK or finding.remedy


def test_changed_weights_are_found(checkpoint, tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, copy)
    weights = next(copy.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    finding = findings_by_subject(Settings(checkpoint=copy))["checkpoint"]
    assert finding.level == FAULT
    assert "is not the file" in finding.text


def test_index_of_another_profile_is_found(checkpoints, index_folder):
    settings = Settings(checkpoint=checkpoints["qwen3-vl-mean"], index=index_folder)
    (fault,) = [each for each in examine(settings, ()) if each.level == FAULT]
    assert "they cannot be compared" in fault.text


def test_edited_profile_is_found(checkpoint, tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, copy)
    profile = json.loads((copy / "profile.json").read_text())
    profile["pooling"] = "mean"
    (copy / "profile.json").write_text(json.dumps(profile))
    finding = findings_by_subject(Settings(checkpoint=copy))["checkpoint"]
    assert finding.level == FAULT
    assert "was changed after it was written" in finding.text


def test_command_prints_findings_and_returns_their_status(checkpoint, capsys, monkeypatch):
    monkeypatch.delenv("LENSEMBLE_CHECKPOINT", raising=False)
    assert main(["doctor", "--checkpoint", str(checkpoint)]) == 0
    output = capsys.readouterr().out
    assert output.startswith("ok       python")
    assert "checkpoint" in output
    assert main(["doctor"]) == 0
    assert "checkpoint" not in capsys.readouterr().out
    assert main(["doctor", "--checkpoint", str(Path("nowhere"))]) == 1
    assert "nowhere" in capsys.readouterr().out


def test_index_without_a_checkpoint_is_refused(capsys, monkeypatch):
    monkeypatch.delenv("LENSEMBLE_CHECKPOINT", raising=False)
    assert main(["doctor", "--index", "x"]) == 1
    assert "CHECKPOINT" in capsys.readouterr().err


@pytest.mark.parametrize("writes", ["on", "off"])
def test_missing_index_is_a_fault_unless_writes_are_on(checkpoint, tmp_path, writes):
    settings = Settings(checkpoint=checkpoint, index=tmp_path / "index", writes=writes)
    assert findings_by_subject(settings)["index"].level == (OK if writes == "on" else FAULT)


def test_graphs_are_checked(checkpoint, tmp_path, monkeypatch):
    settings = Settings(checkpoint=checkpoint, engine="onnx", onnx=tmp_path)
    assert "has no export.json" in findings_by_subject(settings)["onnx"].text
    for name in (VISION, TEXT):
        (tmp_path / name).write_bytes(b"graph")
    files = {name: (sha256_of(tmp_path / name), 5) for name in (VISION, TEXT)}
    ExportedGraphs(tmp_path, Checkpoint.open(checkpoint).profile.hash, "int8", 18, files).write()
    finding = findings_by_subject(settings)["onnx"]
    assert (finding.level, finding.text) == (OK, "graphs of this checkpoint in int8")
    assert (
        "does not use them"
        in findings_by_subject(settings.with_changes(engine="torch"))["onnx"].text
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "'.[onnx]'" in findings_by_subject(settings)["onnx"].remedy
    assert "onnx" not in findings_by_subject(Settings(checkpoint=checkpoint))


def test_what_gpu_kernels_need_is_checked_where_there_is_a_gpu(checkpoint, monkeypatch, tmp_path):
    from lensemble.encoder.pytorch.kernels import requirements
    from lensemble.encoder.pytorch.kernels.requirements import MissingRequirement

    assert "gpu kernels" not in findings_by_subject()
    monkeypatch.setattr(gpu, "find_gpus", lambda: 1)
    monkeypatch.setattr(gpu, "gpu_fault", lambda device: "")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(requirements, "missing_requirements", lambda: iter(()))
    finding = findings_by_subject()["gpu kernels"]
    assert finding.level == OK and str(tmp_path) in finding.text
    missing = MissingRequirement("no C compiler", "apt install gcc")
    monkeypatch.setattr(requirements, "missing_requirements", lambda: iter([missing]))
    finding = findings_by_subject(Settings(checkpoint=checkpoint))["gpu kernels"]
    assert (finding.level, finding.remedy) == (WARNING, "apt install gcc")
    assert finding.text.startswith("no C compiler, so the encoder runs without GPU kernels")
    for changes in ({"gpu_kernels": "off"}, {"device": "cpu"}):
        assert "gpu kernels" not in findings_by_subject(Settings(checkpoint=checkpoint, **changes))


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@NO_GPU
def test_gpu_that_was_asked_for_and_is_missing_is_a_fault(monkeypatch, capsys):
    monkeypatch.delenv("LENSEMBLE_CHECKPOINT", raising=False)
    monkeypatch.setenv("LENSEMBLE_DEVICE", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert main(["doctor"]) == 1
    fault, remedy = (text for text in capsys.readouterr().out.split("\n") if "gpu" in text)
    assert fault.startswith("fault    gpu            LENSEMBLE_DEVICE=cuda, but PyTorch cannot use")
    assert gpu.gpu_fault(torch.device("cuda")) in fault
    assert "CUDA_VISIBLE_DEVICES is '7': name GPUs that `nvidia-smi -L` lists" in remedy


@NO_GPU
def test_cause_is_shown_if_pytorch_finds_no_gpu_where_the_driver_does(checkpoint, monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(gpu, "gpu_fault", lambda device: "The NVIDIA driver is too old")
    found = findings_by_subject(Settings(checkpoint=checkpoint))
    assert found["gpu"].level == WARNING
    assert found["gpu"].text.endswith("PyTorch cannot use one: The NVIDIA driver is too old")
    assert f"CUDA {torch.version.cuda}" in found["gpu"].remedy
    assert "gpu" not in findings_by_subject(Settings(checkpoint=checkpoint, device="cpu"))


def test_each_gpu_is_tried_and_one_that_fails_is_a_fault(monkeypatch):
    """PyTorch lists cards that it cannot use: too old, or taken by another process."""

    def fault(device):
        return "no kernel image is available for execution" if device.index else ""

    monkeypatch.setattr(gpu, "find_gpus", lambda: 2)
    monkeypatch.setattr(gpu, "gpu_fault", fault)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    found = findings_by_subject()
    assert (found["gpu 0"].level, found["gpu 0"].text) == (OK, "a card, 70.0 of 80.0 GB free")
    assert found["gpu 1"].level == FAULT and "no kernel image" in found["gpu 1"].text


@pytest.mark.parametrize(
    ("modes", "level"), [("Default\nDefault\n", None), ("Default\nExclusive_Process\n", WARNING)]
)
def test_mode_that_lets_one_process_use_a_gpu_is_found(monkeypatch, tmp_path, modes, level):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{modes}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [finding.level for finding in devices._compute_mode()] == ([level] if level else [])


def test_missing_checkpoint_hides_no_other_bad_setting(monkeypatch, capsys):
    monkeypatch.delenv("LENSEMBLE_CHECKPOINT", raising=False)
    monkeypatch.setenv("LENSEMBLE_DEVICE", "cuda:0")
    assert main(["doctor"]) == 1
    assert "LENSEMBLE_DEVICE: 'cuda:0' is not auto, cpu or cuda" in capsys.readouterr().err
