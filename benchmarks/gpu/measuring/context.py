"""What every step has: its arguments, the checkpoint, timing, and rows that are saved at once."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu.command.result_files import read_section, write_section

# Imported where they are used: `preflight` runs before the packages that they need are there.
if TYPE_CHECKING:
    from lensemble.encoder.pytorch.torch_engine import TorchEngine
    from lensemble.settings import Settings

_PACKAGES = ("torch", "triton", "transformers", "numpy", "scipy", "sentence-transformers")


class Step:
    """One step of the measurements.

    Args:
        name: Name of the step, a key of `result_files.FILES`.
        options: Its arguments, as `parse_arguments` returns them.

    Attributes:
        out: Folder of the results.
        work: Folder of checkpoints and pictures, which is kept between steps.
        bundle: Folder that `pack.py` made.
        device: Device of the model.
        dry: Whether it only shows on a CPU that it works: a tiny model, and few and small inputs.
        shape: Name of the model's shape, a key of `lensemble_export.model_shapes.SHAPES`.
        instances: Number of `preprocess` instances of the server.
        rows: The rows so far.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        self.out, self.work, self.bundle = options.out, options.work, options.bundle
        self.device = torch.device(options.device)
        self.dry = options.device == "cpu"
        self.shape: str = options.shape or ("tiny" if self.dry else "2b")
        self.instances: int = options.instances
        self.rows: list[dict[str, Any]] = []
        self._notes: dict[str, Any] = {}
        self._failures = 0

    def note(self, **values: Any) -> None:
        """Saves values that belong to the whole step."""
        self._notes |= values
        self._save()

    def add(self, **row: Any) -> None:
        """Prints a row and saves it."""
        self.rows.append(row)
        print(" ".join(f"{key}={value}" for key, value in row.items()))
        self._save()

    def measure(self, run: Callable[[], Mapping[str, Any] | None], **labels: Any) -> bool:
        """Adds the row that a function returns, or says in the row why it failed.

        Args:
            run: Function that returns the figures of the row, or None if it has none.
            **labels: First values of the row.

        Returns:
            Whether it succeeded.
        """
        try:
            figures = run()
        except Exception as error:  # the next row may still succeed
            self._failures += 1
            self.add(**labels, failed=f"{type(error).__name__}: {error}"[:400])
            traceback.print_exc()
            if not self.dry:
                torch.cuda.empty_cache()
            return False
        self.add(**labels, **(figures or {}))
        return True

    def finish(self) -> None:
        """Ends the step with an exit status that tells whether all rows succeeded."""
        self._save()
        if self._failures:
            raise SystemExit(f"{self._failures} of {len(self.rows)} rows failed")

    def seconds(self, run: Callable[[], object], repeats: int = 5, warm_up: int = 2) -> float:
        """Returns the median seconds of a call after warm-up, including the device's work."""
        if self.dry:
            repeats, warm_up = 2, 1
        seconds = []
        for number in range(warm_up + repeats):
            self.synchronize()
            began = time.perf_counter()
            run()
            self.synchronize()
            if number >= warm_up:
                seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    def synchronize(self) -> None:
        """Waits until the device has finished its work."""
        if not self.dry:
            torch.cuda.synchronize()

    def checkpoint(self) -> Path:
        """Returns the folder of the serving checkpoint."""
        return Path(self.work) / self.shape

    def settings(self, **changes: Any) -> Settings:
        """Returns the settings of the encoder.

        Args:
            **changes: Settings that differ from the defaults.
        """
        from lensemble.settings import Settings

        dtype = "fp32" if self.dry else "bf16"
        settings = Settings(checkpoint=self.checkpoint())
        return settings.with_changes(**{"dtype": dtype, "device": self.device.type, **changes})

    def encoder(self, **changes: Any) -> TorchEngine:
        """Returns the encoder, warmed up as the server does it: that records CUDA graphs.

        Args:
            **changes: Settings that differ from the defaults.
        """
        from lensemble.checkpoint import Checkpoint
        from lensemble.encoder.pytorch.load_torch_engine import load_torch_engine

        settings = self.settings(**changes)
        checkpoint = Checkpoint.open(settings.checkpoint)
        encoder = load_torch_engine(checkpoint, settings, str(self.device))
        encoder.warm_up()
        return encoder

    def ceiling(self) -> float | None:
        """Returns the TFLOP/s of the large matrix product; None if `ceiling` has not run."""
        rows = read_section(self.out, "ceiling").get("rows", [])
        return next((row["tflop_per_s"] for row in rows if "tflop_per_s" in row), None)

    def _save(self) -> None:
        content = {
            "machine": machine(),
            "params": {"shape": self.shape, "device": self.device.type},
            **self._notes,
            "rows": self.rows,
        }
        write_section(self.out, self.name, content)


@functools.cache
def machine() -> dict[str, Any]:
    """Returns the GPU with its driver, the CPU, its cores, and the versions of packages."""
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": gpu_query("driver_version"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: installed_version(name) for name in _PACKAGES},
    }


def gpu_query(fields: str) -> str | None:
    """Returns what nvidia-smi answers for the first GPU; None without it.

    Args:
        fields: Names of nvidia-smi's `--query-gpu`, separated by commas.
    """
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.splitlines()[0].strip() if completed.stdout else None


def installed_version(package: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def parse_arguments(description: str | None, name: str) -> Step:
    """Returns the step as the command line describes it.

    Args:
        description: Docstring of the step's module.
        name: Name of the step.
    """
    # The encoder logs which kernels it chose, and why.
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/gpu"))
    parser.add_argument("--bundle", type=Path, default=Path(".gpu"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", help="default: 2b, or tiny with --device cpu")
    parser.add_argument("--instances", type=int, default=8, help="of `preprocess`")
    return Step(name, parser.parse_args())
