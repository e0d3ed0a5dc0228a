"""The contents of the wheel, and that its base install works with only the base dependencies."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_string
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = (
    "lensemble",
    "lensemble_cli",
    "lensemble_client",
    "lensemble_contract",
    "lensemble_corpus",
    "lensemble_evaluation",
    "lensemble_export",
)
NOT_IN_BASE = ("torch", "transformers", "faiss", "fastapi", "tokenizers", "matplotlib", "pytest")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(path).decode())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """`bin` of an environment with the wheel, its base dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    for name in base_distributions():
        for path in distribution(name).files or ():
            place = site / path.parts[0]
            if path.parts[0] not in ("..", "__pycache__") and not place.exists():
                place.symlink_to(distribution(name).locate_file(path.parts[0]))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python))
    run(*pip, "install", "--no-deps", "--no-index", "--no-compile", str(wheel))
    return python.parent


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Runs a command that must succeed; returns its standard output."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def run_installed(*command: str, cwd: Path) -> str:
    """Runs a command that can import only what is installed, and nothing of this tree."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return run(*command, cwd=cwd, env=environment)


def base_distributions() -> set[str]:
    """The base dependencies, with all that they depend on."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) not in seen:
            seen.add(str(requirement))
            found.add(canonicalize_name(requirement.name))
            waiting += needed(requirement)
    return found


def needed(requirement: Requirement) -> Iterator[Requirement]:
    for line in distribution(requirement.name).requires or ():
        one = Requirement(line)
        extras = requirement.extras or {""}
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras):
            yield one


def test_the_base_install_is_the_client_alone(installed, tmp_path):
    code = f"""
import importlib.util, pathlib, sys
import lensemble_client, lensemble_cli.main, lensemble_client.async_client
print(pathlib.Path(lensemble_client.__file__).parent)
print(*(name for name in {NOT_IN_BASE} if importlib.util.find_spec(name)))
client = lensemble_client.Client("grpc://127.0.0.1:9"), lensemble_client.Client("http://127.0.0.1:9")
print(*(one.health(timeout_s=5) for one in client))
[one.close() for one in client]
"""
    lines = run_installed(str(installed / "python"), "-c", code, cwd=tmp_path).splitlines()
    assert Path(lines[0]).is_relative_to(installed.parent)
    assert lines[1:] == ["", "False False"]


def test_the_command_works_there(installed, tmp_path):
    command = str(installed / "lensemble")
    assert PROJECT["version"] in run_installed(command, "--version", cwd=tmp_path)
    text = run_installed(command, "--help", cwd=tmp_path)
    assert "usage: lensemble" in text and "search" in text


def test_metadata_says_what_the_project_does(metadata):
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], PROJECT["version"])
    required = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    base = {str(one) for one in required if one.marker is None}
    assert base == {str(Requirement(line)) for line in PROJECT["dependencies"]}
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (ROOT / PROJECT["readme"]).read_text().strip()


def test_the_models_are_in_it(names):
    repository = ROOT / "model_repository"
    files = [path for path in repository.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    expected = {f"lensemble/model_repository/{path.relative_to(repository)}" for path in files}
    assert "lensemble/model_repository/embed/config.pbtxt" in expected
    assert expected == {name for name in names if "/model_repository/" in name}


def test_every_package_is_typed(names):
    assert {f"{package}/py.typed" for package in PACKAGES} <= names  # PEP 561


def test_nothing_else_is_in_it(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    # No checkpoint, no data, nothing compiled. `LICENSE.pictures` is a licence.
    kinds = {Path(name).suffix for name in names if ".dist-info/" not in name}
    assert kinds <= {".py", ".pbtxt", ".typed", ".txt", ".md", ".pictures", ""}
    assert {Path(name).name for name in names if not Path(name).suffix} <= {
        ".gitkeep",  # an ensemble needs a folder for its version
        "LICENSE",
        "METADATA",
        "RECORD",
        "WHEEL",
    }


def test_it_is_small(wheel):
    assert wheel.stat().st_size < 2 * 1024**2
