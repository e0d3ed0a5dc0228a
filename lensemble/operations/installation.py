"""Finds an installed tritonserver on this machine."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from lensemble_contract.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Installation:
    """The files of a tritonserver and its Python backend.

    Attributes:
        binary: the `tritonserver` program.
        backends: folder of backends, with the sub-folder `python`; None if the program finds its
            own.
        libraries: folder to add to LD_LIBRARY_PATH; None if none is needed.
        stub: the Python backend's stub for this version of Python; None if the program finds its
            own.
    """

    binary: Path
    backends: Path | None = None
    libraries: Path | None = None
    stub: Path | None = None


def find_tritonserver(path: Path | None = None) -> Installation:
    """Finds a tritonserver: the given one, the one on PATH, or that of the `nvidia-pytriton` wheel.

    Args:
        path: the program, if it is known.

    Raises:
        InvalidInputError: There is no tritonserver, or none for this version of Python.
    """
    if path is not None:
        if not path.is_file():
            raise InvalidInputError(f"there is no file {str(path)!r}", field="tritonserver")
        return Installation(path.resolve())
    if on_path := shutil.which("tritonserver"):
        return Installation(Path(on_path))
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise InvalidInputError(
            "no tritonserver was found on PATH, and the package `nvidia-pytriton` is not "
            "installed; run `pip install '.[local-server]'` in the checkout",
            field="tritonserver",
        )
    home = Path(spec.origin).parent / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        versions = sorted(folder.name for folder in stub.parent.parent.iterdir())
        raise InvalidInputError(
            f"the `nvidia-pytriton` wheel has no stub for Python {version}, only for "
            f"{', '.join(versions)}",
            field="tritonserver",
        )
    return Installation(
        binary=home / "bin" / "tritonserver",
        backends=home / "backends",
        libraries=home.parent.parent / "nvidia_pytriton.libs",
        stub=stub,
    )
