"""Runs the planned steps one after the other; one that fails does not stop the next."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.command.background import Background
from benchmarks.gpu.command.guard import LEAST_PART, TimeGuard
from benchmarks.gpu.command.plan import PlannedStep
from benchmarks.gpu.command.processes import TIMED_OUT, run_limited
from benchmarks.gpu.command.result_files import write_section

# How names of variables begin that change precision, timing or memory, such as
# TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which NVIDIA's images set; and settings and interpreters.
_NOT_INHERITED = (
    "LENSEMBLE_", "PYTHON", "VIRTUAL_ENV",
    "TORCH", "PYTORCH_", "NVIDIA_TF32_OVERRIDE", "CUDA_LAUNCH_BLOCKING", "CUBLAS_",
    "TRITON_INTERPRET", "OMP_", "MKL_",
)  # fmt: skip


class StepRunner:
    """Runs steps within the time that the guard grants them, and records what became of each.

    Args:
        guard: The command's time.
        interpreters: Name of an environment -> its interpreter, perhaps still being made.
        out: Folder of the results.
        arguments: Arguments of every step.
        tree: Folder of the project.
        write: Called with each line of the log.
    """

    def __init__(
        self,
        guard: TimeGuard,
        interpreters: Mapping[str, Background[Path]],
        *,
        out: Path,
        arguments: Sequence[str],
        tree: Path,
        write: Callable[[str], None],
    ) -> None:
        self._guard, self._interpreters = guard, interpreters
        self._out, self._arguments, self._tree, self._write = out, arguments, tree, write
        self._background: dict[str, Background[str]] = {}
        self.records: dict[str, dict[str, Any]] = {}

    def run(self, plan: Sequence[PlannedStep]) -> bool:
        """Runs the steps in order.

        Args:
            plan: The steps.

        Returns:
            Whether all of them ended well.
        """
        for number, step in enumerate(plan):
            later = plan[number + 1 :]
            if step.background:
                self._start(step, later)
            else:
                self._record(step, self._outcome(step, later))
        for name, work in self._background.items():
            self.records[name]["outcome"] = self._ended(name, work)
        self._save()
        return all(record["outcome"] == "done" for record in self.records.values())

    def _start(self, step: PlannedStep, later: Sequence[PlannedStep]) -> None:
        self._write(f"== {step.name} starts in the background")
        self.records[step.name] = {"outcome": "running"}
        self._background[step.name] = Background(lambda: self._outcome(step, later))

    def _outcome(self, step: PlannedStep, later: Sequence[PlannedStep]) -> str:
        """Runs a step, and returns what became of it: `done`, or why it is not."""
        granted, remaining = self._guard.granted_s(step, later), self._guard.remaining_s()
        if not granted:
            return f"skipped: {remaining:.0f} s are left, which is too little for it"
        try:
            for name in step.needs:
                if name in self._background:
                    ended = self._ended(name, self._background[name], granted)
                    if ended != "done":
                        return f"skipped: {name} is {ended}"
            python = self._interpreters[step.environment].result(granted)
        except Exception as error:  # its environment could not be made, or not in time
            return f"skipped: no environment {step.environment!r}: {error!r}"
        waited = remaining - self._guard.remaining_s()
        limit = granted - waited
        if limit < LEAST_PART * step.share_s or limit <= 0:
            return f"skipped: it waited {waited:.0f} s for what it needs, and too little is left"
        self._write(f"== {step.name}: at most {limit:.0f} s")
        status = run_limited(
            [str(python), "-m", f"benchmarks.gpu.steps.{step.name}", *self._arguments],
            self._environment(step),
            limit,
            self._write,
            folder=self._tree,
        )
        if status == TIMED_OUT:
            return f"ended at its limit of {limit:.0f} s"
        return "done" if status == 0 else f"failed with status {status}"

    def _environment(self, step: PlannedStep) -> dict[str, str]:
        """Returns the step's variables: none of the caller's that would change what is measured."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
        }
        own = {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        if step.environment == "base":
            own["PYTHONPATH"] = str(self._tree)
        return {**inherited, **own}

    def _ended(self, name: str, work: Background[str], timeout_s: float = 0.0) -> str:
        try:
            return work.result(timeout_s or self._guard.remaining_s())
        except Exception as error:
            return f"not done: {error!r}"

    def _record(self, step: PlannedStep, outcome: str) -> None:
        self.records[step.name] = {"outcome": outcome}
        self._write(f"== {step.name}: {outcome}, {self._guard.remaining_s():.0f} s are left")
        self._save()

    def _save(self) -> None:
        write_section(self._out, "command", {"steps": self.records})
