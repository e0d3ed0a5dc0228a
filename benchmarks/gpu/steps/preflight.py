"""What the machine has: GPU, versions, memory, compiler, and whether modules are missing."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.command.environments import BasePython
from benchmarks.gpu.measuring.context import gpu_query, installed_version, parse_arguments

_GPU_FIELDS = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit"

# Modules that the other steps import.
MODULES = (
    "PIL",
    "aiohttp",
    "cachetools",
    "google.protobuf",
    "grpc",
    "huggingface_hub",
    "jinja2",
    "ml_dtypes",
    "numpy",
    "prometheus_client",
    "psutil",
    "pydantic",
    "safetensors",
    "sentence_transformers",
    "tokenizers",
    "torchvision",
    "tqdm",
    "transformers",
    "triton",
    "tritonclient",
)
_VERSIONS = ("torch", "triton", "transformers", "numpy", "scipy", "torchvision", "pillow", "grpcio")


def memory() -> dict[str, Any]:
    """Returns GiB of memory, of /dev/shm and of the disk, and the number of cores."""
    gib = 1024**3
    shared, disk = shutil.disk_usage("/dev/shm"), shutil.disk_usage(Path.cwd())
    return {
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / gib, 1),
        "shm_gib": round(shared.total / gib, 1),
        "shm_free_gib": round(shared.free / gib, 1),
        "disk_free_gib": round(disk.free / gib, 1),
        "cores": len(os.sched_getaffinity(0)),
    }


def attention() -> dict[str, Any]:
    """Returns the signatures of PyTorch's variable-length attention."""
    from torch.nn.attention.varlen import varlen_attn

    return {
        "varlen_attn": str(inspect.signature(varlen_attn)),
        "flash_forward": str(torch.ops.aten._flash_attention_forward.default._schema),
    }


def compiler() -> dict[str, Any]:
    """Returns what Triton's language needs to make its first kernel."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False)
    return {
        "gcc": shutil.which("gcc") or shutil.which("cc"),
        "python_h": header.is_file(),
        "libcuda": "libcuda.so.1" in listed.stdout,
    }


def modules(bundle: Path) -> dict[str, Any]:
    """Returns the modules that neither this interpreter nor the bundle has."""
    carried = {path.name.split("-")[0].lower() for path in bundle.glob("*.whl")}
    missing = [
        name
        for name in MODULES
        if name not in carried and importlib.util.find_spec(name.split(".")[0]) is None
    ]
    if missing:
        raise ModuleNotFoundError(f"neither here nor in the bundle: {', '.join(missing)}")
    return {"missing": missing}


def cuda() -> dict[str, Any]:
    """Returns the device's properties, after a small product on it."""
    properties = torch.cuda.get_device_properties(0)
    ones = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
    if float((ones @ ones).sum()) != 64.0**3:
        raise RuntimeError("the product of two matrices of ones is wrong")
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 1024**3, 1),
        "cuda": torch.version.cuda,
    }


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "preflight")
    rows: dict[str, Any] = {
        "versions": lambda: {name: installed_version(name) for name in _VERSIONS},
        "memory": memory,
        "modules": lambda: modules(step.bundle),
        "libpython": lambda: {"path": BasePython.ask(sys.executable).libpython},
        "attention": attention,
        "compiler": compiler,
    }
    if not step.dry:
        rows |= {"nvidia-smi": lambda: {"gpu": gpu_query(_GPU_FIELDS)}, "cuda": cuda}
    for name, read in rows.items():
        step.measure(partial(_plain, read), what=name)
    step.finish()


def _plain(read: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Makes paths writable as JSON."""
    return {key: str(v) if isinstance(v, Path) else v for key, v in read().items()}


if __name__ == "__main__":
    main()
