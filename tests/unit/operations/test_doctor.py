"""What `lensemble doctor` says where only the client is installed, and what `up` checks first."""

import json
import os
import socket
import subprocess
import sys
import tomllib

import pytest

from lensemble.operations.doctor import FAULT, devices, examine, faults_before_start, machine
from lensemble.settings import Settings
from lensemble_cli.main import main
from tests.paths import ROOT

# Makes packages of the extras impossible to import, as in an install of the client alone.
LEAN = """
import importlib.metadata, json, sys
MISSING = ("cachetools", "huggingface_hub", "lmdb", "psutil", "pydantic", "safetensors",
           "tokenizers", "torch", "transformers", "faiss", "pytriton", "fastapi",
           "orjson", "uvicorn")
for name in MISSING:
    sys.modules[name] = None
find = importlib.metadata.version
def version(name):
    if name.replace("-", "_").partition("_cpu")[0] in MISSING:
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)
importlib.metadata.version = version
from lensemble_cli.main import main
for arguments in json.loads(sys.argv[1]):
    print("status", main(arguments), flush=True)
"""


@pytest.fixture(scope="module")
def lean():
    """The commands `doctor` and `up` where only the client is installed."""
    commands = [["doctor"], ["up", "--checkpoint", "x"]]
    return subprocess.run(
        [sys.executable, "-c", LEAN, json.dumps(commands)],
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_doctor_names_what_an_install_of_the_client_lacks(lean):
    assert "Traceback" not in lean.stderr
    lines = lean.stdout.partition("status 1")[0].splitlines()
    (packages,) = [number for number, line in enumerate(lines) if line.startswith("fault    packa")]
    for name in ("pydantic", "torch", "transformers", "psutil"):
        assert name in lines[packages]
    assert "-> run `pip install '.[local-server]'` in the checkout" in lines[packages + 1]
    # The checks that need none of them run, too.
    for subject in ("python", "/dev/shm", "ports", "tritonserver"):
        assert any(line[9:].startswith(subject) for line in lines), subject


def test_packages_are_those_of_the_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    served = {line.partition(">")[0] for line in extras["optional-dependencies"]["serve"]}
    assert set(machine._PACKAGES) == served | {"numpy"}


def test_a_package_that_cannot_be_imported_is_one_finding(monkeypatch):
    def broken():
        raise ImportError("libcudart.so.12 is missing")
        yield

    monkeypatch.setattr(devices, "device", lambda settings: broken())
    monkeypatch.setattr(devices, "gpu_kernels", lambda settings: iter(()))
    (fault,) = [each for each in examine(None, ()) if each.level == FAULT]
    assert "libcudart.so.12 is missing" in fault.text
    assert fault.remedy


@pytest.fixture
def checkpoint(tmp_path):
    """A folder that is no serving checkpoint."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return folder


def subjects(faults):
    return [(fault.subject, fault.text) for fault in faults]


def test_faults_of_the_configuration_are_found_before_a_start(checkpoint, tmp_path):
    """One line each, although three checks open the checkpoint."""
    settings = Settings(
        checkpoint=checkpoint, index=tmp_path, clip="/no/such/folder", engine="onnx"
    )
    (first, text), (second, other) = subjects(faults_before_start(settings))
    assert (first, second) == ("checkpoint", "LENSEMBLE_CLIP")
    assert "not a serving checkpoint; make one with" in text
    assert other == "there is no folder '/no/such/folder'"


def test_up_ends_with_the_cause_and_the_remedy_and_starts_nothing(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("lensemble.operations.tritonserver.TritonServer", None)
    assert main(["up", "--checkpoint", str(checkpoint)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: checkpoint: no profile.json in ")
    assert line.endswith("make one with `python -m lensemble_export checkpoint`")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--gateway-port", "0"], "error: gateway_port: it requires --gateway"),
        (["--keys", "keys.json"], "error: keys: it requires --gateway"),
        (["--gateway", "--keys", "nowhere.json"], "error: keys: cannot read 'nowhere.json'"),
        (["--gateway", "--gateway-host", "0.0.0.0"], "error: LENSEMBLE_GATEWAY_HOST: '0.0.0.0'"),
        (["--gateway", "--tls", "nowhere"], "error: tls: no ca.crt, tls.crt or tls.key in"),
    ],
)
def test_options_of_the_gateway_are_checked_before_the_start(
    checkpoint, monkeypatch, capsys, options, line
):
    monkeypatch.setattr("lensemble.operations.tritonserver.TritonServer", None)
    assert main(["up", "--checkpoint", str(checkpoint), *options]) == 1
    assert capsys.readouterr().err.startswith(line)


def test_port_of_the_gateway_is_checked_before_the_start(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("lensemble.operations.tritonserver.TritonServer", None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["up", "--checkpoint", str(checkpoint), "--gateway", "--gateway-port", port]
        assert main(arguments) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: port: cannot listen on 127.0.0.1:{port}")
    assert f"(pid {os.getpid()})" in line


def test_up_names_the_extra_that_a_server_needs(lean):
    assert lean.stdout.endswith("status 1\n")
    assert lean.stderr.endswith("; run `pip install '.[local-server]'` in the checkout\n")


def test_profile_that_is_a_list_is_refused(checkpoint):
    (checkpoint / "profile.json").write_text(json.dumps([]))
    ((subject, text),) = subjects(faults_before_start(Settings(checkpoint=checkpoint)))
    assert subject == "checkpoint"
    assert "contains a list, expected a JSON object" in text
