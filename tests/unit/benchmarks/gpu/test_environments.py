"""The two environments: which packages each one has."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu.command.environments import (
    DYNLOAD,
    LIBRARIES,
    BasePython,
    find_libpython,
    find_python,
    make_front,
    make_server,
)

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def bundle(tmp_path):
    """A bundle with one wheel and a server that has its own NumPy."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    with zipfile.ZipFile(folder / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried/__init__.py", "WHERE = 'bundle'")
    server = tmp_path / "server"
    for name, text in {
        "numpy/__init__.py": "__version__ = '1.26.4'",
        "pytriton/__init__.py": "WHERE = 'bundle'",
        f"{LIBRARIES}/libpython{VERSION}.so.1.0": "carried",
    }.items():
        (server / name).parent.mkdir(parents=True, exist_ok=True)
        (server / name).write_text(text)
    with tarfile.open(folder / "server.tar.xz", "w:xz") as archive:
        for path in server.iterdir():
            archive.add(path, path.name)
    return folder


@pytest.fixture
def base(tmp_path):
    """A machine's interpreter with packages of its own."""
    packages = tmp_path / "packages"
    for name in (
        "numpy/__init__.py",
        "numpy-2.5.2.dist-info/METADATA",
        "scipy/__init__.py",
        "scikit_learn.libs/lib.so",
        "torch/__init__.py",
        "numpyro/__init__.py",
        "pytriton/__init__.py",
        "__editable___other.pth",
        "single.py",
    ):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text("__version__ = '2.5.2'\nWHERE = 'machine'")
    (packages / "__editable___other.pth").write_text("/nowhere\n")
    library = tmp_path / f"libpython{VERSION}.so.1.0"
    library.write_text("the machine's")
    return BasePython(sys.executable, (packages,), VERSION, library)


def ask(python: Path, code: str) -> str:
    completed = subprocess.run(
        [python, "-c", code], env={}, capture_output=True, text=True, check=True
    )
    return completed.stdout.strip()


def test_front_has_the_machines_packages_and_the_carried_wheels(base, bundle, tmp_path):
    python = make_front(base, tmp_path / "tree", bundle, tmp_path / "front")
    code = "import numpy, torch, carried; print(numpy.__version__, torch.WHERE, carried.WHERE)"
    assert ask(python, code) == "2.5.2 machine bundle"


def test_server_has_numpy_1_and_nothing_that_refuses_it(base, bundle, tmp_path):
    python = make_server(base, tmp_path / "tree", bundle, tmp_path / "server-environment")
    code = """
import importlib.util as u, numpy, torch, pytriton, single, numpyro
print(numpy.__version__, torch.WHERE, pytriton.WHERE, u.find_spec("scipy"))
"""
    assert ask(python, code) == "1.26.4 machine bundle None"
    site = python.parents[1] / "lib" / f"python{VERSION}" / "site-packages"
    assert not list(site.glob("numpy-2*")) and not list(site.glob("scikit_*"))
    assert not list(site.glob("__editable__*"))


def test_server_leaves_the_machines_packages_alone(base, bundle, tmp_path):
    make_server(base, tmp_path / "tree", bundle, tmp_path / "server-environment")
    text = (base.packages[0] / "pytriton" / "__init__.py").read_text()
    assert "machine" in text


def test_server_takes_the_machines_interpreter_library(base, bundle, tmp_path):
    python = make_server(base, tmp_path / "tree", bundle, tmp_path / "server-environment")
    site = python.parents[1] / "lib" / f"python{VERSION}" / "site-packages"
    library = site / LIBRARIES / f"libpython{VERSION}.so.1.0"
    assert library.read_text() == "the machine's"


def test_carried_interpreter_library_comes_with_its_modules(base, bundle, tmp_path):
    base = BasePython(base.program, base.packages, base.version, None)
    python = make_server(base, tmp_path / "tree", bundle, tmp_path / "server-environment")
    site = python.parents[1] / "lib" / f"python{VERSION}" / "site-packages"
    assert (site / LIBRARIES / f"libpython{VERSION}.so.1.0").read_text() == "carried"
    assert str(site / DYNLOAD) in (site / "_lensemble.pth").read_text().splitlines()


def test_project_comes_before_the_machines_packages(base, bundle, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "single.py").write_text("WHERE = 'project'")
    for make in (make_front, make_server):
        python = make(base, tmp_path / "tree", bundle, tmp_path / make.__name__)
        found = ask(python, "import sys; print('\\n'.join(sys.path))").splitlines()
        assert str(tmp_path / "tree") in found
        if make is make_front:
            assert found.index(str(tmp_path / "tree")) < found.index(str(base.packages[0]))


def test_bundle_without_wheels_says_how_to_make_one(base, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.gpu\.pack"):
        make_front(base, tmp_path, tmp_path / "nothing", tmp_path / "front")


def test_interpreter_library_is_found_in_the_folder_of_the_architecture(tmp_path):
    name = "libpython9.9.so.1.0"
    assert find_libpython("9.9", str(tmp_path), "x86_64-linux-gnu") is None
    (tmp_path / "x86_64-linux-gnu").mkdir()
    (tmp_path / "x86_64-linux-gnu" / name).touch()
    found = find_libpython("9.9", str(tmp_path), "x86_64-linux-gnu")
    assert found == tmp_path / "x86_64-linux-gnu" / name


def test_interpreter_knows_its_folders():
    base = BasePython.ask(sys.executable)
    assert base.version == VERSION
    assert any((packages / "pytest").is_dir() for packages in base.packages)


def test_interpreter_that_does_not_start_is_passed_over(tmp_path, monkeypatch):
    """As pyenv's own program of that name, while another version is chosen."""
    shims, installed = tmp_path / "shims", tmp_path / ".pyenv" / "versions" / "9.9.1" / "bin"
    for folder, status in ((shims, 1), (installed, 0)):
        folder.mkdir(parents=True)
        (folder / "python9.9").write_text(f"#!/bin/sh\nexit {status}\n")
        (folder / "python9.9").chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:/bin:/usr/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_python("9.9") == str(installed / "python9.9")
    with pytest.raises(FileNotFoundError, match=r"no Python 9\.8; say where"):
        find_python("9.8")
