"""Reads the current use of the server's processes, its shared memory and the GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

SHARED_MEMORY = Path("/dev/shm")
_MODEL = re.compile(r"/([^/]+)/\d+/model\.py$")
_PREFIX = re.compile(r"shm-region-prefix-name=(\w+)")
_BLOCK = 512
_GPU = ("memory.used", "utilization.gpu", "power.draw")
_GPU_TIMEOUT_S = 5


def name_of(command: Iterable[str]) -> str | None:
    """Returns the name of a process in reports: the model that it runs, or its program.

    Args:
        command: Command line of the process.

    Returns:
        None if it is not one of the server's processes but, for example, a short-lived helper.
    """
    words = list(command)
    for word in words:
        if match := _MODEL.search(word):
            return match.group(1)
    if words and Path(words[0]).name == "tritonserver":
        return "tritonserver"
    return None


def read_usage(roots: Mapping[str, int | None]) -> dict[str, dict[str, float]]:
    """Reads what processes use, added up by name.

    Args:
        roots: Name -> id of a process, whose descendants are included; `tritonserver` is split by
            model.

    Returns:
        Name -> `cpu_s` (since each process began), `resident_bytes`, `files` (open), `processes`.
    """
    usage: dict[str, dict[str, float]] = {}
    for root, pid in roots.items():
        for process in _with_descendants(pid):
            try:
                name = name_of(process.cmdline()) if root == "tritonserver" else root
                with process.oneshot():
                    times = process.cpu_times()
                    values = {
                        "cpu_s": times.user + times.system,
                        "resident_bytes": process.memory_info().rss,
                        "files": process.num_fds(),
                        "processes": 1,
                    }
            except psutil.Error:  # it ended in the meantime
                continue
            if name is not None:
                sums = usage.setdefault(name, dict.fromkeys(values, 0))
                for key, value in values.items():
                    sums[key] += value
    return usage


def _with_descendants(pid: int | None) -> list[psutil.Process]:
    if pid is None:
        return []
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def shared_memory_prefix(pid: int) -> str:
    """Returns the prefix of the names of a server's segments; empty if it cannot be read."""
    try:
        match = _PREFIX.search(" ".join(psutil.Process(pid).cmdline()))
    except psutil.Error:
        return ""
    return match.group(1) if match else ""


def shared_memory(prefix: str) -> int:
    """Returns the bytes in memory of all segments whose name begins with the prefix."""
    total = 0
    for segment in SHARED_MEMORY.glob(f"{prefix}*"):
        try:
            total += segment.stat().st_blocks * _BLOCK
        except OSError:  # the segment was removed in the meantime
            continue
    return total


def gpu() -> dict[str, float] | None:
    """Reads the use of the GPUs.

    Returns:
        Sums over all GPUs of `memory_mib` and `power_w`, and the mean `utilization` (0 to 1); None
        if there is no GPU.
    """
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader,nounits"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S)
        rows = [
            [float(value) for value in line.split(",")] for line in completed.stdout.splitlines()
        ]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if completed.returncode or not rows:
        return None
    memory, utilization, power = (list(column) for column in zip(*rows, strict=True))
    return {
        "memory_mib": sum(memory),
        "utilization": sum(utilization) / len(rows) / 100,
        "power_w": sum(power),
    }


def machine() -> dict[str, Any]:
    """Describes the machine for reports: `cpu`, `cores`, and `memory_gib`."""
    memory = float(psutil.virtual_memory().total) / 2**30
    cpuinfo = Path("/proc/cpuinfo").read_text()
    cpu = next(
        (line.split(":")[1].strip() for line in cpuinfo.splitlines() if "model name" in line), ""
    )
    return {"cpu": cpu, "cores": psutil.cpu_count(), "memory_gib": round(memory, 1)}
