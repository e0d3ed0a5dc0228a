"""What Triton needs on a machine with a GPU, beside PyTorch.

At the first start of a kernel Triton builds a small module of its own in C, and stores it and all
compiled kernels in a folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LIBRARY = "libcuda.so.1"


class MissingRequirement(NamedTuple):
    """Something that Triton needs and this machine lacks.

    Attributes:
        what: what is missing, such as `no C compiler`.
        remedy: what to do about it.
    """

    what: str
    remedy: str


def missing_requirements() -> Iterator[MissingRequirement]:
    """Finds what Triton needs and this machine lacks; nothing is compiled for it."""
    if not _has_triton():
        yield MissingRequirement(
            "the package triton is not installed", "install PyTorch for CUDA, which brings it"
        )
    compiler = os.environ.get("CC")
    if shutil.which(compiler) is None if compiler else not _default_compiler():
        what = f"no C compiler {compiler!r} (variable CC)" if compiler else "no C compiler"
        yield MissingRequirement(what, "apt install gcc libc6-dev")
    header = Path(_include_folder()) / "Python.h"
    if not header.is_file():
        yield MissingRequirement(f"no {header}", "apt install python3-dev")
    if not _has_library():
        yield MissingRequirement(
            f"the linker does not find {_LIBRARY}",
            "run `ldconfig` as root, or set TRITON_LIBCUDA_PATH to its folder",
        )
    folder = cache_folder()
    if fault := _fault(folder):
        yield MissingRequirement(
            f"the folder {str(folder)!r} {fault}",
            "set TRITON_CACHE_DIR to another folder, which outlives restarts",
        )


def cache_folder() -> Path:
    """Folder of the compiled kernels, as Triton chooses it; it need not exist."""
    chosen = os.environ.get("TRITON_CACHE_DIR")
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")  # noqa: PTH111
    return Path(chosen) if chosen else Path(home, ".triton", "cache")


def _has_triton() -> bool:
    try:
        return importlib.util.find_spec("triton.language") is not None
    except ImportError:
        return False


def _default_compiler() -> bool:
    return any(shutil.which(name) for name in ("gcc", "clang"))


def _include_folder() -> str:
    """Folder of Python's headers, chosen as Triton does.

    It takes the scheme `posix_prefix` where Debian's default is `posix_local`.
    """
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)


def _has_library() -> bool:
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    folders.append(os.environ.get("TRITON_LIBCUDA_PATH", ""))
    if any(folder and Path(folder, _LIBRARY).exists() for folder in folders):
        return True
    try:
        known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return _LIBRARY in known.stdout


def _fault(folder: Path) -> str:
    """Why libraries cannot be stored in a folder and loaded from it; empty if they can."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            flags = os.statvfs(folder).f_flag
    except OSError:
        return "is not writable"
    return "is mounted `noexec`" if flags & os.ST_NOEXEC else ""
