"""Where a tritonserver lies on this machine."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from lensemble_contract.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Installation:
    """Where a tritonserver and its Python backend lie.

    Attributes:
        binary: The `tritonserver` program.
        backends: Folder with `python/`; None leaves it to the binary.
        libraries: Folder for LD_LIBRARY_PATH; None if none is needed.
        stub: The Python backend's stub for this interpreter; None if it brings its own.
    """

    binary: Path
    backends: Path | None = None
    libraries: Path | None = None
    stub: Path | None = None


def find_tritonserver(given: Path | None = None) -> Installation:
    """Finds a tritonserver: the one given, on PATH, or in the `nvidia-pytriton` wheel.

    Raises:
        InvalidInputError: There is none, or none for this version of Python.
    """
    if given is not None:
        if not given.is_file():
            raise InvalidInputError(f"no file {str(given)!r}", field="tritonserver")
        return Installation(given.resolve())
    if on_path := shutil.which("tritonserver"):
        return Installation(Path(on_path))
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise InvalidInputError(
            "no tritonserver: none was given, none is on PATH, and `nvidia-pytriton` is not "
            "installed; run `pip install 'lensemble[local-server]'`",
            field="tritonserver",
        )
    home = Path(spec.origin).parent / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        found = sorted(path.name for path in stub.parent.parent.iterdir())
        raise InvalidInputError(
            f"the `nvidia-pytriton` wheel has no stub for Python {version}, only for "
            f"{', '.join(found)}",
            field="tritonserver",
        )
    return Installation(
        binary=home / "bin" / "tritonserver",
        backends=home / "backends",
        libraries=home.parent.parent / "nvidia_pytriton.libs",
        stub=stub,
    )
