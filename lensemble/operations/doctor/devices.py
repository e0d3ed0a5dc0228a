"""Checks of the GPUs, and of what the compiler of the GPU kernels needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble.operations.doctor.finding import FAULT, OK, WARNING, Finding

if TYPE_CHECKING:
    import torch

    from lensemble.settings import Settings


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
