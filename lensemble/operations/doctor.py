"""Checks whether this machine can run a server; each problem comes with a remedy."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble.settings import Settings, unknown_variables
from lensemble_contract.errors import LensembleError

if TYPE_CHECKING:
    import torch

OK, WARNING, FAULT = "ok", "warning", "fault"

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
_FAISS = ("faiss-cpu", "faiss-gpu")
_SHARED_MEMORY = Path("/dev/shm")
# Twice the size of a full batch of pictures at the profile's largest size.
_MIN_SHARED_MEMORY = 1024**3
_MIN_DISK = 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: `OK`, `WARNING` or `FAULT`.
        subject: what was checked.
        text: what the check found.
        remedy: what to do about it; empty if there is nothing to do.
    """

    level: str
    subject: str
    text: str
    remedy: str = ""


def examine(
    settings: Settings, ports: Sequence[int], *, machine_only: bool = False
) -> Iterator[Finding]:
    """Runs all checks, the quick ones first.

    Args:
        settings: the server's settings.
        ports: TCP ports on loopback that the server would use.
        machine_only: leaves out checkpoint, graphs and index.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python, _packages, _faiss, _tritonserver, lambda: _device(settings),
        lambda: _gpu_kernels(settings), _shared_memory, lambda: _ports(ports), _variables,
    ]  # fmt: skip
    if not machine_only:
        checks += [
            lambda: _checkpoint(settings), lambda: _engine(settings), lambda: _index(settings)
        ]  # fmt: skip
    for check in checks:
        try:
            yield from check()
        except LensembleError as error:
            yield Finding(FAULT, error.field or "settings", error.message)


def _python() -> Iterator[Finding]:
    yield Finding(OK, "python", sys.version.split()[0])


def _packages() -> Iterator[Finding]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                FAULT, name, "not installed", "run `pip install '.[local-server]'` in the checkout"
            )
    yield Finding(
        OK, "packages", ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def _faiss() -> Iterator[Finding]:
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


def _tritonserver() -> Iterator[Finding]:
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


def _device(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    if settings.device == "cpu":
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
    hidden, wanted = visible_devices(), settings.device == "cuda"
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


def _gpu_kernels(settings: Settings) -> Iterator[Finding]:
    """What the compiler of the GPU kernels needs; without it, PyTorch computes everything."""
    from lensemble.gpu import find_gpus

    if settings.device == "cpu" or settings.gpu_kernels == "off" or not find_gpus():
        return
    from lensemble.encoder.pytorch.kernels.requirements import cache_folder, missing_requirements

    missing = list(missing_requirements())
    for each in missing:
        text = f"{each.what}, so the encoder runs without GPU kernels and is slower"
        yield Finding(WARNING, "gpu kernels", text, each.remedy)
    if not missing:
        yield Finding(OK, "gpu kernels", f"can be built; stored in {str(cache_folder())!r}")


def _shared_memory() -> Iterator[Finding]:
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


def _ports(ports: Sequence[int]) -> Iterator[Finding]:
    from lensemble.operations.ports import free_ports

    taken = []
    for port in ports:
        try:
            free_ports([port])
        except LensembleError:
            taken.append(port)
    if taken:
        yield Finding(
            WARNING,
            "ports",
            f"{', '.join(map(str, taken))} taken by another program",
            "find it with `ss -ltnp`, or choose others: lensemble up --grpc-port 0 (any free one)",
        )
    else:
        yield Finding(OK, "ports", f"{', '.join(map(str, ports))} are free")


def _variables() -> Iterator[Finding]:
    for name in unknown_variables():
        yield Finding(WARNING, name, "no such setting", "docs/settings.md lists them; unset it")


def _checkpoint(settings: Settings) -> Iterator[Finding]:
    from lensemble.checkpoint import Checkpoint

    profile = Checkpoint.open(settings.checkpoint, full=True).profile
    yield Finding(
        OK,
        "checkpoint",
        f"{profile.name}, {profile.dimension} dimensions; all files match its profile",
    )


def _engine(settings: Settings) -> Iterator[Finding]:
    if settings.engine != "onnx" and settings.onnx is None and not settings.graphs.is_dir():
        return
    from lensemble.checkpoint import Checkpoint
    from lensemble.encoder.onnx.graph_files import ExportedGraphs

    graphs = ExportedGraphs.open(settings.graphs, Checkpoint.open(settings.checkpoint), full=True)
    if importlib.util.find_spec("onnxruntime") is None:
        yield Finding(
            FAULT if settings.engine == "onnx" or settings.onnx else WARNING,
            "onnx",
            "there are graphs, but ONNX Runtime is not installed",
            "run `pip install '.[onnx]'` in the checkout",
        )
        return
    unused = "; LENSEMBLE_ENGINE=torch does not use them" if settings.engine == "torch" else ""
    yield Finding(OK, "onnx", f"graphs of this checkpoint in {graphs.precision}{unused}")


def _index(settings: Settings) -> Iterator[Finding]:
    if settings.index is None:
        yield Finding(OK, "index", "none: embeddings only")
        return
    if not settings.index.exists() and settings.writes == "on":
        yield Finding(OK, "index", f"{str(settings.index)!r} will be created")
        return
    from lensemble.checkpoint import Checkpoint
    from lensemble.index.checks import check_profile
    from lensemble.index.snapshots.manifest import is_intact, read_manifest
    from lensemble.index.storage.store import Store

    profile = Checkpoint.open(settings.checkpoint).profile
    with Store.open(settings.index) as store:
        check_profile(store.profile_name, store.profile_hash, profile.hash)
        name = store.snapshot
        if name and not is_intact(settings.index, name):
            yield Finding(
                FAULT,
                "index",
                f"snapshot {name!r} is damaged",
                f"lensemble index compact {settings.index} builds a new one from the stored items",
            )
            return
        manifest = read_manifest(settings.index, name) if name else None
    if manifest is None:
        text = "no snapshot yet"
    else:
        text = f"{manifest.count} items, {manifest.kind}, recall@10 {manifest.recall_at_10:.3f}"
    yield Finding(OK, "index", text)
    free = shutil.disk_usage(settings.index).free
    if settings.writes == "on" and free < _MIN_DISK:
        yield Finding(
            WARNING,
            "disk",
            f"{free / 1e9:.1f} GB free for writes",
            "free some space, or move the index",
        )
