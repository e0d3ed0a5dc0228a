"""Checks of the machine: Python's packages, tritonserver, GPU, shared memory, ports, variables."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble.operations.doctor.finding import FAULT, OK, WARNING, Finding
from lensemble_contract.errors import LensembleError

if TYPE_CHECKING:
    import torch

    from lensemble.settings import Settings

INSTALL = "run `pip install '.[local-server]'` in the checkout"

# What the models import, and the supervisor: the extra `serve`, and NumPy.
_PACKAGES = (
    "cachetools", "huggingface-hub", "lmdb", "numpy", "psutil", "pydantic", "safetensors",
    "tokenizers", "torch", "transformers",
)  # fmt: skip
_FAISS = ("faiss-cpu", "faiss-gpu")
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
    found = []
    for name in _FAISS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    if len(found) == 1:
        yield Finding(OK, "faiss", found[0])
    elif found:
        yield Finding(
            FAULT,
            "faiss",
            f"{' and '.join(found)} are installed in the same folder",
            f"run `pip uninstall -y {' '.join(_FAISS)}`, then `pip install '.[search]'`, or on "
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


def device(settings: Settings | None) -> Iterator[Finding]:
    """Tries each GPU by a small computation."""
    cores = len(os.sched_getaffinity(0))
    if settings is not None and settings.device == "cpu":
        yield Finding(OK, "cpu", f"{cores} cores; LENSEMBLE_DEVICE=cpu uses no GPU")
        return
    import torch

    from lensemble.gpu import find_gpus, gpu_fault, visible_devices

    count = find_gpus()
    for number in range(count):
        yield _gpu(torch.device("cuda", number), "gpu" if count == 1 else f"gpu {number}")
    if count:
        yield from _compute_mode()
        return
    hidden, wanted = visible_devices(), settings is not None and settings.device == "cuda"
    if wanted or shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        hint = f"{hidden}: name GPUs that `nvidia-smi -L` lists, or unset it; " if hidden else ""
        cuda = torch.version.cuda
        build = (
            f"install a driver for CUDA {cuda} or newer, for which this PyTorch is built"
            if cuda
            else "install a PyTorch for CUDA, because this one is for CPUs"
        )
        asked = "LENSEMBLE_DEVICE=cuda, but" if wanted else "this machine has a GPU, but"
        yield Finding(
            FAULT if wanted else WARNING,
            "gpu",
            f"{asked} PyTorch cannot use one: {gpu_fault(torch.device('cuda'))}",
            f"{hint}start containers with --gpus all; {build}; LENSEMBLE_DEVICE=cpu serves without "
            "a GPU",
        )
    if not wanted:
        yield Finding(OK, "cpu", f"{cores} cores, no GPU: enough for small models and for trials")


def _gpu(device: torch.device, subject: str) -> Finding:
    import torch

    from lensemble.gpu import gpu_fault

    if fault := gpu_fault(device):
        return Finding(
            FAULT,
            subject,
            f"PyTorch cannot compute there: {fault}",
            "`nvidia-smi` shows who uses it and whether it is in order; choose others with "
            "CUDA_VISIBLE_DEVICES, or set LENSEMBLE_DEVICE=cpu",
        )
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return Finding(OK, subject, f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")


def _compute_mode() -> Iterator[Finding]:
    """Tritonserver, each encoder and each searcher are processes of their own on a GPU."""
    command = ["nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return
    modes = {line.strip() for line in answer.stdout.splitlines()}
    if exclusive := sorted(mode for mode in modes if mode.startswith("Exclusive")):
        yield Finding(
            WARNING,
            "compute mode",
            f"a GPU is in mode {exclusive[0]}, which lets one process use it; a server has several",
            "run `nvidia-smi -c DEFAULT` as root, or NVIDIA's MPS",
        )


def gpu_kernels(settings: Settings | None) -> Iterator[Finding]:
    """What the compiler of the GPU kernels needs; without it, PyTorch computes everything."""
    from lensemble.gpu import find_gpus

    is_off = settings is not None and settings.gpu_kernels == "off"
    if is_off or (settings is not None and settings.device == "cpu") or not find_gpus():
        return
    from lensemble.encoder.pytorch.kernels.requirements import cache_folder, missing_requirements

    missing = list(missing_requirements())
    for each in missing:
        text = f"{each.what}, so the encoder runs without GPU kernels and is slower"
        yield Finding(WARNING, "gpu kernels", text, each.remedy)
    if not missing:
        yield Finding(OK, "gpu kernels", f"can be built; stored in {str(cache_folder())!r}")


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
