"""Packs what a GPU machine without network lacks into one folder that fits its limit.

    python -m benchmarks.gpu.pack [--python INTERPRETER] [--out .gpu]

- `server.tar.xz`: the tritonserver of the installed `nvidia-pytriton` wheel, reduced to what its
  Python backend needs; NumPy 1.26; and the shared library of the interpreter, for machines that
  have none.
- wheels: what PyTorch's and Transformers' own installations do not bring along.
- `photos/`: photographs, from which the sets of pictures are made.

The size together with the project's own files is checked against the limit of one transfer.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from benchmarks.common.photos import PHOTOS, encoded, read_photo
from benchmarks.gpu.command.environments import DYNLOAD, LIBRARIES, find_python

MAX_TRANSFER_BYTES = 64 * 1024**2
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_35_x86_64",
    "any",
)
# `server.tar.xz` compresses it to half of its wheel.
NUMPY = "numpy==1.26.4"
WHEELS = (
    "tritonclient",
    "python-rapidjson",
    "cachetools",
    "pydantic",
    "annotated-types",
    "typing-inspection",
)
_PHOTO_SIDE, _PHOTO_QUALITY = 1024, 85

_ASK = """
import json, sys, sysconfig as s
print(json.dumps(["%d.%d" % sys.version_info[:2], s.get_config_var("LIBDIR"),
                  s.get_config_var("INSTSONAME"), s.get_config_var("DESTSHARED")]))
"""


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
    libraries = site / LIBRARIES
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


def interpreter_files(python: str) -> tuple[str, dict[str, Path]]:
    """Returns an interpreter's version, and its shared library with the modules that it loads.

    Args:
        python: Path or name of the interpreter.

    Returns:
        The version, such as `3.12`, and name inside site-packages -> file; no files if the
        interpreter has no shared library.
    """
    completed = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True)
    version, libraries, name, modules = json.loads(completed.stdout)
    if ".so" not in name:
        return version, {}
    files = {f"{LIBRARIES}/{name}": Path(libraries, name).resolve()}
    return version, files | {
        f"{DYNLOAD}/{path.name}": path for path in sorted(Path(modules).glob("*.so"))
    }


def numpy_files(version: str, folder: Path) -> dict[str, Path]:
    """Downloads NumPy 1.26 and returns name inside site-packages -> file, without its tests.

    Args:
        version: The target's Python version, such as `3.12`.
        folder: Empty folder for the files.
    """
    download((NUMPY,), folder, version)
    with zipfile.ZipFile(next(folder.glob("numpy-*.whl"))) as wheel:
        wheel.extractall(folder / "unpacked")
    paths = (path for path in (folder / "unpacked").rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder / "unpacked")): path
        for path in paths
        if "tests" not in path.parts
    }


def write_archive(target: Path, files: dict[str, Path], *, fast: bool) -> None:
    """Writes files into an archive, compiled ones without symbols.

    Args:
        target: Path of the archive.
        files: Name in the archive -> file.
        fast: Whether to compress quickly rather than well.
    """
    # The first filter rewrites addresses in machine code, which then compresses better.
    well = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9}]
    options: dict[str, Any] = {"preset": 0} if fast else {"filters": well}
    with (
        TemporaryDirectory(prefix="gpu-strip-") as temporary,
        lzma.open(target, "wb", **options) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for number, (name, path) in enumerate(files.items()):
            small = Path(temporary, str(number))
            # NumPy's wheel is stripped already, and its libraries do not bear it twice.
            strip = ["strip", "--strip-unneeded", "-o", str(small), str(path)]
            if name.startswith("numpy") or subprocess.run(strip, capture_output=True).returncode:
                small = path  # no machine code
            archive.add(small, name, filter=_executable)
        archive.addfile(tarfile.TarInfo("pytriton/__init__.py"))


def download(names: tuple[str, ...], folder: Path, version: str) -> None:
    """Downloads wheels for the target, without their dependencies.

    Args:
        names: Requirements.
        folder: Folder of the wheels.
        version: The target's Python version, such as `3.12`.
    """
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


def pydantic_core(folder: Path) -> str:
    """Returns the requirement of the one version of its compiled part that pydantic takes.

    Args:
        folder: Folder with pydantic's wheel.
    """
    with zipfile.ZipFile(next(folder.glob("pydantic-*.whl"))) as wheel:
        metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        text = wheel.read(metadata).decode()
    found = re.search(r"^Requires-Dist: (pydantic-core==\S+)", text, re.MULTILINE)
    assert found is not None, "pydantic no longer pins pydantic-core"
    return found.group(1)


def write_photos(folder: Path) -> None:
    """Writes the photographs of `benchmarks.common.photos`, reduced.

    Args:
        folder: Folder of the JPEG files; made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOS:
        photo = Image.open(io.BytesIO(read_photo(name))).convert("RGB")
        photo.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
        (folder / name).with_suffix(".jpg").write_bytes(encoded(photo, _PHOTO_QUALITY))


def tree_files() -> list[Path]:
    """Returns the files that are transferred: all that Git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        check=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [Path(name) for name in names if Path(name).is_file()]


def pack(out: Path, python: str, *, fast: bool = False) -> int:
    """Makes the bundle.

    Args:
        out: Folder of the bundle, which is replaced.
        python: Interpreter of the target's Python version.
        fast: Whether to compress quickly rather than well; the size is then not checked.

    Returns:
        Its size in bytes.

    Raises:
        SystemExit: There is no tritonserver to pack, or the bundle together with the project's
            files is over the limit of one transfer.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise SystemExit("nvidia-pytriton is not installed; run `make .venv/.made`")
    home = Path(spec.origin).resolve().parent / "tritonserver"
    shutil.rmtree(out, ignore_errors=True)
    write_photos(out / "photos")
    with TemporaryDirectory(prefix="gpu-pack-") as temporary:
        version, own_files = interpreter_files(python)
        download(WHEELS, out, version)
        download((pydantic_core(out),), out, version)
        files = server_files(home, version) | own_files | numpy_files(version, Path(temporary))
        write_archive(out / "server.tar.xz", files, fast=fast)
    own = sum(path.stat().st_size for path in tree_files())
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"bundle: {size / 2**20:.1f} MiB, with the tree {(size + own) / 2**20:.1f} MiB")
    if size + own > MAX_TRANSFER_BYTES and not fast:
        raise SystemExit(
            f"the bundle and the tree have {(size + own) / 2**20:.1f} MiB; expected at most "
            f"{MAX_TRANSFER_BYTES / 2**20:.0f} MiB"
        )
    return size


def _executable(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Makes a file executable: pip leaves the programs of the wheel without that."""
    info.mode = 0o755
    return info


def main() -> None:
    """Makes the bundle and prints its size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".gpu"), help="default: .gpu")
    parser.add_argument("--python", help="interpreter of the target's version; default: 3.12")
    parser.add_argument("--fast", action="store_true", help="compress quickly, for rehearsals")
    options = parser.parse_args()
    pack(options.out, options.python or find_python(), fast=options.fast)


if __name__ == "__main__":
    main()
