"""Measures on a GPU machine with one command that ends in time.

    python3 -m benchmarks.gpu --out FOLDER [--device cpu] [STEP...]

It runs in the project's folder, with the interpreter that has PyTorch, and uses only the standard
library. The steps are in `command/plan.py`; without names all of them run. Each one has its own
process group and time limit, and saves after each row. The exit status is 0 if all steps ended
well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import FrameType

from benchmarks.gpu.command.background import Background
from benchmarks.gpu.command.environments import BasePython, make_front, make_server
from benchmarks.gpu.command.guard import TimeGuard
from benchmarks.gpu.command.plan import TOTAL_S, chosen_steps
from benchmarks.gpu.command.processes import kill_marked
from benchmarks.gpu.command.result_files import LOG
from benchmarks.gpu.command.sequence import StepRunner

# The names in `lensemble_export.model_shapes`, which needs packages.
SHAPES = ("tiny", "emoji", "small", "2b", "4b", "8b")
_SHARED_MEMORY = Path("/dev/shm")
# Part of `shared_memory_bytes` that must be free.
LEAST_FREE = 0.75


class Log:
    """Writes lines to a file and to standard output, with the seconds since the start.

    Args:
        path: The file; lines are appended.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._lock, self._began = threading.Lock(), time.monotonic()

    def write(self, line: str) -> None:
        """Writes one line."""
        with self._lock:
            text = f"{time.monotonic() - self._began:6.1f} {line}"
            print(text, file=self._file, flush=True)
            print(text, flush=True)


def main() -> None:
    """Runs the steps."""
    options = _parse_arguments()
    signal.signal(signal.SIGTERM, _exit)
    # A CPU takes longer, so all limits grow with the time of the command.
    scale = options.total_s / TOTAL_S if options.device == "cpu" else 1.0
    try:
        plan = chosen_steps(options.steps, scale)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if any(step.environment != "base" for step in plan) and not any(options.bundle.glob("*.whl")):
        # Without it nothing can be measured, so the machine's time is not spent.
        raise SystemExit(
            f"no wheels in {str(options.bundle)!r}; run `python -m benchmarks.gpu.pack`, and carry "
            "that folder along"
        )
    guard = TimeGuard(options.total_s)
    options.out.mkdir(parents=True, exist_ok=True)
    log = Log(options.out / LOG)
    tree = Path.cwd()
    work, is_temporary = options.work.resolve(), False
    if options.device == "cuda" and _grow_shared_memory(log, options.shape):
        work, is_temporary = _SHARED_MEMORY / "lensemble-gpu", True
    base = BasePython.ask(sys.executable)
    log.write(f"Python {base.version}, libpython: {base.libpython or 'the carried one'}")
    environments = options.work.resolve() / "environments"
    makers = {"front": make_front, "server": make_server}
    interpreters: dict[str, Background[Path]] = {"base": Background(lambda: Path(sys.executable))}
    for name in sorted({step.environment for step in plan} - {"base"}):
        make = partial(makers[name], base, tree, options.bundle.resolve(), environments / name)
        interpreters[name] = Background(make)
    arguments = [f"--out={options.out.resolve()}", f"--work={work}", f"--device={options.device}"]
    arguments += [f"--bundle={options.bundle.resolve()}"]
    arguments += [f"--shape={options.shape}"] if options.shape else []
    arguments += [f"--instances={options.instances}"]
    runner = StepRunner(
        guard, interpreters, out=options.out, arguments=arguments, tree=tree, write=log.write
    )
    try:
        all_done = runner.run(plan)
    finally:
        kill_marked()
        if is_temporary:
            shutil.rmtree(work, ignore_errors=True)
    for name, record in runner.records.items():
        log.write(f"{name:10} {record['outcome']}")
    # Threads may still be making an environment; nothing waits for them.
    sys.stdout.flush()
    os._exit(0 if all_done else 1)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help="default: all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--bundle", type=Path, default=Path(".gpu"), help="default: .gpu")
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/gpu"), help="folder of environments and weights"
    )
    parser.add_argument("--total-s", type=float, default=TOTAL_S, help="default: 520")
    parser.add_argument("--shape", choices=SHAPES, help="default: 2b, or tiny with --device cpu")
    parser.add_argument("--instances", type=int, default=8, help="of `preprocess`, in `served`")
    options = parser.parse_args()
    for name in ("total_s", "instances"):
        if not getattr(options, name) > 0:  # also if it is NaN
            text = f"--{name.replace('_', '-')}: {getattr(options, name)} is not more than 0"
            parser.error(text)
    return options


def shared_memory_bytes(shape: str | None) -> int:
    """Size of /dev/shm that a run needs for weights and for Triton; the weights are read often.

    Args:
        shape: one of `SHAPES`; None is the default.
    """
    return (28 if shape == "8b" else 16) * 1024**3


def _grow_shared_memory(log: Log, shape: str | None) -> bool:
    """Returns whether /dev/shm has place for the weights; root can make it larger."""
    size = shared_memory_bytes(shape)
    if shutil.disk_usage(_SHARED_MEMORY).free < size:
        command = ["mount", "-o", f"remount,size={size}", str(_SHARED_MEMORY)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        log.write(f"/dev/shm remounted: {done.returncode} {done.stderr.strip()}")
    return shutil.disk_usage(_SHARED_MEMORY).free >= LEAST_FREE * size


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(f"ended by signal {number}")


if __name__ == "__main__":
    main()
