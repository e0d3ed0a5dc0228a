"""Samples the use of the GPU while something runs."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

_FIELDS = {"utilization.gpu": "gpu_use", "power.draw": "power_w", "clocks.sm": "clock_mhz"}
_PERIOD_MS = 250


class GpuUse:
    """Runs nvidia-smi beside a measurement; a context manager that does nothing without it."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if shutil.which("nvidia-smi"):
            fields = f"--query-gpu={','.join(_FIELDS)}"
            self._process = subprocess.Popen(
                ["nvidia-smi", fields, "--format=csv,noheader,nounits", f"-lms={_PERIOD_MS}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def means(self) -> dict[str, float]:
        """Returns the means so far: `gpu_use` (per cent), `power_w`, `clock_mhz`."""
        return mean_use(list(self._lines))

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.append(line)


def mean_use(lines: Iterable[str]) -> dict[str, float]:
    """Returns the means of nvidia-smi's lines; empty without any.

    Args:
        lines: Values separated by commas; lines that contain anything else are left out.
    """
    rows = []
    for line in lines:
        try:
            rows.append([float(value) for value in line.split(",")])
        except ValueError:  # such as [N/A]
            continue
    columns = zip(*(row for row in rows if len(row) == len(_FIELDS)), strict=True)
    return {
        name: round(statistics.mean(column), 1)
        for name, column in zip(_FIELDS.values(), columns, strict=False)
    }
