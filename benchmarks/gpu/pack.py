"""Packs what a bare GPU machine without network lacks into two bundles that fit its limits.

    python -m benchmarks.gpu.pack [--python python3.12] [--out .gpu]

- `one/` has the tritonserver of the installed `nvidia-pytriton` wheel, reduced to what its Python
  backend needs, the shared library of the interpreter, and the wheels of the Triton clients.
- `two/` has the NumPy that the backend's stub needs, and wheels for searching and for comparisons.

`run.sh` unpacks those bundles that it finds. The size of each bundle together with the project's
own files is checked against the limit of one transfer.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

MAX_TRANSFER_BYTES = 64 * 1024**2
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_35_x86_64",
    "any",
)

# The target already has torch, transformers, tokenizers, grpcio and aiohttp.
WHEELS = {
    "one": (
        "tritonclient",
        "python-rapidjson",
        "geventhttpclient",
        "gevent",
        "greenlet",
        "zope.event",
        "zope.interface",
        "brotli",
    ),
    "two": ("numpy==1.26.4", "faiss-cpu", "qwen-vl-utils"),
}


def server_files(home: Path, version: str) -> dict[str, Path]:
    """Returns name inside site-packages -> file, for the reduced server.

    Args:
        home: Folder `pytriton/tritonserver` of the wheel.
        version: Python version, such as `3.12`.
    """
    site = home.parent.parent
    files = [home / "bin" / "tritonserver"]
    files += [path for path in (home / "backends" / "python").iterdir() if path.is_file()]
    files += (home / "python_backend_stubs" / version).iterdir()
    files += [path for path in (home / "caches").rglob("*") if path.is_file()]
    libraries = site / "nvidia_pytriton.libs"
    needed: set[Path] = set()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    for path in files:
        listed = subprocess.run(
            ["ldd", str(path)], env=environment, capture_output=True, text=True, check=False
        )
        for library in re.findall(r"=> (\S+) \(", listed.stdout):
            if Path(library).resolve().parent == libraries.resolve():
                needed.add(Path(library).resolve())
    return {str(path.relative_to(site)): path for path in (*files, *sorted(needed))}


def interpreter_library(python: str) -> Path | None:
    """Returns the shared library of an interpreter, which the stub links; None if it has none."""
    code = (
        "import sysconfig as s; print(s.get_config_var('LIBDIR'), s.get_config_var('INSTSONAME'))"
    )
    completed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    folder, name = completed.stdout.split()
    path = Path(folder, name)
    return path if path.is_file() and ".so" in name else None


def download(names: tuple[str, ...], folder: Path, version: str) -> None:
    """Downloads wheels for the target, without their dependencies."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={version}",
        f"--dest={folder}",
        *(f"--platform={platform}" for platform in PLATFORMS),
    ]
    for name in names:
        subprocess.run([*command, name], check=True)


def tree_files() -> list[Path]:
    """Returns the files that are transferred: all that Git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        check=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [Path(name) for name in names if Path(name).is_file()]


def pack(out: Path, python: str, version: str, fast: bool) -> dict[str, int]:
    """Makes both bundles.

    Args:
        out: Folder of the bundles, which is replaced.
        python: Interpreter of the target's Python version.
        version: That version, such as `3.12`.
        fast: Whether to compress quickly rather than well; sizes are then not checked.

    Returns:
        Bundle -> bytes.

    Raises:
        SystemExit: A bundle together with the project's files is over the limit of one transfer.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise SystemExit("nvidia-pytriton is not installed; run `make .venv/.made`")
    home = Path(spec.origin).resolve().parent / "tritonserver"
    shutil.rmtree(out, ignore_errors=True)
    for bundle, names in WHEELS.items():
        (out / bundle).mkdir(parents=True)
        download(names, out / bundle, version)
    with tarfile.open(out / "one" / "server.tar.xz", "w:xz", preset=0 if fast else 6) as archive:
        for name, path in server_files(home, version).items():
            archive.add(path, name)
        if library := interpreter_library(python):
            archive.add(library.resolve(), f"nvidia_pytriton.libs/{library.name}")
    own = sum(path.stat().st_size for path in tree_files())
    sizes = {
        bundle: sum(path.stat().st_size for path in (out / bundle).iterdir()) for bundle in WHEELS
    }
    for bundle, size in sizes.items():
        print(f"{bundle}: {size / 2**20:.1f} MiB, with the tree {(size + own) / 2**20:.1f} MiB")
        if size + own > MAX_TRANSFER_BYTES and not fast:
            raise SystemExit(f"bundle {bundle} is over {MAX_TRANSFER_BYTES / 2**20:.0f} MiB")
    return sizes


def main() -> None:
    """Makes both bundles and prints their sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".gpu"))
    parser.add_argument(
        "--python", default="python3.12", help="interpreter of the target's version"
    )
    parser.add_argument("--fast", action="store_true", help="compress quickly, for dry runs")
    options = parser.parse_args()
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    completed = subprocess.run(
        [options.python, "-c", code], capture_output=True, text=True, check=True
    )
    pack(options.out, options.python, completed.stdout.strip(), options.fast)


if __name__ == "__main__":
    main()
