"""No folder of the tree hides a package that others wrote, or stands in for a missing one.

A folder without `__init__.py` on the import path is a package, too: an empty one. With a folder
`export/triton`, `import triton` succeeded where Triton's compiler was not installed, and PyTorch
failed later.
"""

import importlib.machinery
import importlib.metadata
import tomllib

import pytest

from tests.paths import ROOT

# Packages that need not be installed, and whose absence other packages notice by importing them.
OPTIONAL = {"triton", "faiss", "torch", "flash_attn", "onnxruntime", "cupy", "tritonclient"}


def import_path() -> list[str]:
    """What an editable install and Triton's Python backend put on the import path."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = [ROOT / name for name in pyproject["tool"]["hatch"]["build"]["dev-mode-dirs"]]
    for model in (ROOT / "model_repository").iterdir():
        folders += [model, model / "1"]
    assert all(folder.is_dir() for folder in folders if folder.name != "1")
    return [str(folder) for folder in folders]


def packages_of_others() -> set[str]:
    """Names by which the installed packages are imported, without ours."""
    installed = importlib.metadata.packages_distributions()
    ours = {name for name, distributions in installed.items() if distributions == ["lensemble"]}
    return (set(installed) - ours) | OPTIONAL


def found_here(name: str, path: list[str]) -> bool:
    """Whether a folder or a module of that name lies on the path."""
    return importlib.machinery.PathFinder.find_spec(name, path) is not None


def test_no_folder_is_called_like_a_package_of_others():
    path, names = import_path(), packages_of_others()
    assert len(names) > 50
    assert found_here("lensemble_export", path)  # the path is that of an editable install
    assert {name for name in names if found_here(name, path)} == set()


@pytest.mark.parametrize("name", ["triton", "triton.py"])
def test_such_a_folder_or_module_is_found(tmp_path, name):
    if name.endswith(".py"):
        (tmp_path / name).touch()
    else:
        (tmp_path / name).mkdir()
    assert found_here("triton", [*import_path(), str(tmp_path)])
