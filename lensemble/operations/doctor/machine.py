"""Checks of the machine: Python's packages, tritonserver, shared memory, ports, variables."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lensemble.operations.doctor.finding import FAULT, OK, WARNING, Finding
from lensemble_contract.errors import LensembleError

INSTALL = "run `pip install '.[local-server]'` in the checkout"

# What the models import, and the supervisor: the extra `serve`, and NumPy.
_PACKAGES = (
    "cachetools", "huggingface-hub", "lmdb", "numpy", "psutil", "pydantic", "safetensors",
    "tokenizers", "torch", "transformers",
)  # fmt: skip
_SHARED_MEMORY = Path("/dev/shm")
# Twice the size of a full batch of pictures at the profile's largest size.
_MIN_SHARED_MEMORY = 1024**3


def python() -> Iterator[Finding]:
    """Reports the version of Python."""
    yield Finding(OK, "python", sys.version.split()[0])


def packages() -> Iterator[Finding]:
    """Looks for the packages that the models import."""
    versions, missing = [], []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding(FAULT, "packages", f"not installed: {', '.join(missing)}", INSTALL)
    else:
        yield Finding(OK, "packages", ", ".join(versions))


def faiss() -> Iterator[Finding]:
    """Looks for one, and only one, build of FAISS."""
    # Others publish builds under names of their own, such as faiss-gpu-cu12.
    builds = {
        each.name: each.version
        for each in importlib.metadata.distributions()
        if (each.name or "").lower().startswith("faiss")
        and any(path.parts[0] == "faiss" for path in each.files or ())
    }
    names = sorted(builds)
    found = [f"{name} {builds[name]}" for name in names]
    if len(found) == 1:
        yield Finding(OK, "faiss", found[0])
    elif found:
        yield Finding(
            FAULT,
            "faiss",
            f"{' and '.join(found)} are installed in the same folder",
            f"run `pip uninstall -y {' '.join(names)}`, then `pip install '.[search]'`, or on "
            "GPUs `pip install '.[search-gpu]'`, in the checkout",
        )
    else:
        yield Finding(
            FAULT,
            "faiss",
            "not installed",
            "run `pip install '.[search]'`, or on GPUs `pip install '.[search-gpu]'`, in the "
            "checkout",
        )


def tritonserver() -> Iterator[Finding]:
    """Looks for a tritonserver that fits this version of Python."""
    from lensemble.operations.installation import find_tritonserver

    installation = find_tritonserver()
    if installation.stub is not None:
        yield Finding(
            WARNING,
            "tritonserver",
            f"{installation.binary}, release 24.10 of the nvidia-pytriton wheel",
            "it has known security holes: use it on loopback only, and NVIDIA's image "
            "(docker-compose.yml) to serve others",
        )
    else:
        yield Finding(OK, "tritonserver", str(installation.binary))


def shared_memory() -> Iterator[Finding]:
    """Measures /dev/shm."""
    if not _SHARED_MEMORY.is_dir():
        yield Finding(FAULT, "/dev/shm", "the folder is missing", "mount a tmpfs there")
        return
    usage = shutil.disk_usage(_SHARED_MEMORY)
    text = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free"
    if usage.free < _MIN_SHARED_MEMORY:
        yield Finding(
            FAULT,
            "/dev/shm",
            f"{text}; Triton passes tensors through it and needs 1 GB",
            "use docker run --shm-size 2g, or `shm_size: 2gb` in a compose file; if no server "
            "runs, rm /dev/shm/lensemble_*",
        )
    else:
        yield Finding(OK, "/dev/shm", text)


def free_for_use(ports: Sequence[int]) -> Iterator[Finding]:
    """Looks for ports that another program has taken."""
    from lensemble.operations.ports import free_ports, listener

    taken = []
    for port in ports:
        try:
            free_ports([port])
        except LensembleError:
            taken.append(f"{port} by {listener(port) or 'another program'}")
    if taken:
        yield Finding(
            WARNING,
            "ports",
            f"taken: {', '.join(taken)}",
            "end that program, or choose others: lensemble up --grpc-port 0 (any free one)",
        )
    else:
        yield Finding(OK, "ports", f"{', '.join(map(str, ports))} are free")


def variables() -> Iterator[Finding]:
    """Looks for misspelt settings."""
    from lensemble.settings import unknown_variables

    for name in unknown_variables():
        yield Finding(WARNING, name, "no such setting", "docs/settings.md lists them; unset it")
