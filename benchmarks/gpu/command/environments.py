"""Makes the two virtual environments of a run from the machine's own packages and the bundle.

- `front` has the machine's packages, with its NumPy, and the wheels that it lacks.
- `server` is for tritonserver, whose stub gives empty tensors under NumPy 2. So it has NumPy 1.26,
  and links to the machine's packages except those that refuse NumPy 1: SciPy from 1.18 on does, and
  scikit-learn, pandas and others import SciPy or were built for NumPy 2 alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = (".", "cli", "client", "evaluation", "export")
LIBRARIES = "nvidia_pytriton.libs"
# Standard modules that the carried interpreter library loads from files.
DYNLOAD = "carried-lib-dynload"

# First part of the names in site-packages that `server` must not have.
_NOT_WITH_NUMPY_1 = re.compile(
    r"(numpy|scipy|sklearn|skimage|pandas|sentence_transformers|scikit_\w+)$", re.IGNORECASE
)

_ASK = """
import json, site, sys, sysconfig
print(json.dumps({
    "packages": sorted({*site.getsitepackages(), sysconfig.get_path("purelib")}),
    "version": "%d.%d" % sys.version_info[:2],
    "folders": [sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("MULTIARCH")],
}))
"""


@dataclass(frozen=True, slots=True)
class BasePython:
    """The machine's interpreter, which has PyTorch.

    Attributes:
        program: Path of the interpreter.
        packages: Folders of its packages.
        version: Its version, such as `3.12`.
        libpython: Its shared library; None if the machine has none.
    """

    program: str
    packages: tuple[Path, ...]
    version: str
    libpython: Path | None

    @classmethod
    def ask(cls, program: str) -> BasePython:
        """Asks an interpreter for its folders.

        Args:
            program: Path or name of the interpreter.
        """
        completed = subprocess.run(
            [program, "-c", _ASK], capture_output=True, text=True, check=True
        )
        answer = json.loads(completed.stdout)
        packages = tuple(path for path in map(Path, answer["packages"]) if path.is_dir())
        library = find_libpython(answer["version"], *answer["folders"])
        return cls(program, packages, answer["version"], library)


def find_python(version: str = "3.12") -> str:
    """Returns an interpreter of a version, from PATH or from pyenv.

    Args:
        version: The version, such as `3.12`.

    Raises:
        FileNotFoundError: There is none.
    """
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    for candidate in (shutil.which(f"python{version}"), *map(str, installed)):
        # pyenv's own `python3.12` on PATH fails while another version is chosen.
        if candidate and not subprocess.run([candidate, "-V"], capture_output=True).returncode:
            return candidate
    raise FileNotFoundError(f"no Python {version}; say where one is: --python INTERPRETER")


def find_libpython(version: str, folder: str | None, multiarch: str | None) -> Path | None:
    """Returns an interpreter's shared library; None if there is none.

    Args:
        version: Python version, such as `3.12`.
        folder: The interpreter's `LIBDIR`.
        multiarch: The interpreter's `MULTIARCH`, such as `x86_64-linux-gnu`.
    """
    name = f"libpython{version}.so.1.0"
    candidates = [
        Path(folder or "/usr/lib", name),
        Path(folder or "/usr/lib", multiarch or "", name),
    ]
    if ldconfig := shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin"):
        listed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False)
        candidates += [
            Path(line.split("=>")[1].strip())
            for line in listed.stdout.splitlines()
            if line.split()[:1] == [name]
        ]
    return next((path for path in candidates if path.is_file()), None)


def make_front(base: BasePython, tree: Path, bundle: Path, folder: Path) -> Path:
    """Makes the environment of the steps that need no server.

    Args:
        base: The machine's interpreter.
        tree: Folder of the project.
        bundle: Folder that `pack.py` made.
        folder: Folder of the environment, which is replaced.

    Returns:
        The environment's interpreter.
    """
    python, site = _new_environment(base, folder)
    _unpack_wheels(bundle, site)
    # `addsitedir` also reads the .pth files in those folders, as for the machine's own interpreter.
    lines = [f"import site; site.addsitedir({str(path)!r})" for path in base.packages]
    _write_paths(site, tree, lines)
    return python


def make_server(base: BasePython, tree: Path, bundle: Path, folder: Path) -> Path:
    """Makes the environment of tritonserver.

    Args:
        base: The machine's interpreter.
        tree: Folder of the project.
        bundle: Folder that `pack.py` made.
        folder: Folder of the environment, which is replaced.

    Returns:
        The environment's interpreter.
    """
    python, site = _new_environment(base, folder)
    _unpack_wheels(bundle, site)
    with tarfile.open(bundle / "server.tar.xz") as archive:
        archive.extractall(site, filter="data")
    extra = _choose_libpython(base, site)
    for packages in base.packages:
        for path in packages.iterdir():
            link = site / path.name
            # What the bundle has is not linked to: it would be replaced.
            if not link.exists() and not _NOT_WITH_NUMPY_1.match(re.split(r"[-.]", path.name)[0]):
                if not path.name.startswith("__editable__"):
                    link.symlink_to(path)
    _write_paths(site, tree, extra)
    return python


def _choose_libpython(base: BasePython, site: Path) -> list[str]:
    """Puts the interpreter library for the stub in its place; returns paths that it needs.

    The machine's own library fits the machine's standard library. The carried one expects some
    modules as files that others (Ubuntu's) contain, so those files are carried, too.
    """
    place = site / LIBRARIES / f"libpython{base.version}.so.1.0"
    if base.libpython is None:
        return [str(site / DYNLOAD)]
    place.unlink(missing_ok=True)
    place.symlink_to(base.libpython)
    return []


def _new_environment(base: BasePython, folder: Path) -> tuple[Path, Path]:
    """Returns the interpreter of a new environment without packages, and its packages' folder."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([base.program, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python", folder / "lib" / f"python{base.version}" / "site-packages"


def _unpack_wheels(bundle: Path, site: Path) -> None:
    wheels = sorted(bundle.glob("*.whl"))
    if not wheels:
        raise FileNotFoundError(
            f"no wheels in {str(bundle)!r}; run `python -m benchmarks.gpu.pack`"
        )
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def _write_paths(site: Path, tree: Path, lines: list[str]) -> None:
    """Writes the .pth file: the project's folders first, then other lines."""
    folders = [str((tree / source).resolve()) for source in SOURCES]
    (site / "_lensemble.pth").write_text("\n".join([*folders, *lines]) + "\n")
