"""Packs what a bare GPU machine without network lacks, into two bundles that fit its limits.

    python -m benchmarks.gpu.pack [--python python3.12] [--out .gpu]

- `one/`: the tritonserver of the installed `nvidia-pytriton` wheel, slimmed to what its Python
  backend needs, the interpreter's shared library, and the wheels of its clients.
- `two/`: the NumPy that its stub needs, and wheels for `search` and for side-by-side runs.

`run.sh` unpacks whichever lies beside it. Sizes are checked against the limit of one transfer, the
project's own tree counted.
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

# Neither torch nor transformers, tokenizers, grpcio, aiohttp: the target has them.
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
    """Name inside site-packages -> file, for the slim server.

    Args:
        home: `pytriton/tritonserver` of the wheel.
        version: Of Python, such as `3.12`.
    """
    site = home.parent.parent
    kept = [home / "bin" / "tritonserver"]
    kept += [path for path in (home / "backends" / "python").iterdir() if path.is_file()]
    kept += (home / "python_backend_stubs" / version).iterdir()
    kept += [path for path in (home / "caches").rglob("*") if path.is_file()]
    libraries = site / "nvidia_pytriton.libs"
    needed: set[Path] = set()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    for path in kept:
        listed = subprocess.run(
            ["ldd", str(path)], env=environment, capture_output=True, text=True, check=False
        )
        for found in re.findall(r"=> (\S+) \(", listed.stdout):
            if Path(found).resolve().parent == libraries.resolve():
                needed.add(Path(found).resolve())
    return {str(path.relative_to(site)): path for path in (*kept, *sorted(needed))}


def interpreter_library(python: str) -> Path | None:
    """The shared library of an interpreter, which the stub links; None if it has none."""
    code = (
        "import sysconfig as s; print(s.get_config_var('LIBDIR'), s.get_config_var('INSTSONAME'))"
    )
    ran = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    folder, name = ran.stdout.split()
    path = Path(folder, name)
    return path if path.is_file() and ".so" in name else None


def download(names: tuple[str, ...], folder: Path, version: str) -> None:
    """Wheels for the target, without what they in turn need."""
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
    """Files that travel with the project: tracked ones, and untracked ones that are not ignored."""
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
        out: Folder; made anew.
        python: An interpreter of the target's version.
        version: That version, such as `3.12`.
        fast: Whether to compress quickly rather than well.

    Returns:
        Bundle -> bytes.

    Raises:
        SystemExit: A bundle and the tree are over the limit of one transfer.
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
    parser.add_argument("--python", default="python3.12", help="of the target's version")
    parser.add_argument("--fast", action="store_true", help="larger, for dry runs")
    given = parser.parse_args()
    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    ran = subprocess.run([given.python, "-c", code], capture_output=True, text=True, check=True)
    pack(given.out, given.python, ran.stdout.strip(), given.fast)


if __name__ == "__main__":
    main()
