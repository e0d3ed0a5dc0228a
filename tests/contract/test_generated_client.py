"""The synchronous client is what `make generate` writes from the asynchronous one."""

import importlib.util
import shutil
import subprocess
import sys

import pytest

from tests.paths import ROOT

SCRIPT = ROOT / "client/generate_sync.py"


@pytest.fixture
def generator(tmp_path, monkeypatch):
    """The script as a module, which works on a copy of the client."""
    spec = importlib.util.spec_from_file_location("generate_sync", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    package = tmp_path / "lensemble_client"
    shutil.copytree(module.PACKAGE, package)
    monkeypatch.setattr(module, "PACKAGE", package)
    return module


def test_generated_files_are_up_to_date():
    run = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_change_on_either_side_is_found(generator):
    assert generator.outdated() == []
    for name in ("_sync/base.py", "_async/store.py"):
        path = generator.PACKAGE / name
        text = path.read_text()
        path.write_text(text.replace("timeout_s", "timeout"))
        assert generator.outdated() == [path.name]
        path.write_text(text)
    (generator.PACKAGE / "_sync/forgotten.py").touch()
    assert generator.outdated() == ["forgotten.py"]
