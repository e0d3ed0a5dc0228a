"""Whether a supervised server survives processes that are killed or stopped, and hostile input.

    python -m benchmarks.faults [--quick] [--only bad|kills] [--save]

It ends with one line of JSON: `kills`, `lost_writes`, `worst_recovery_s`, `bad_inputs`,
`workers_died` and more, which `killed_processes.py` and `hostile_calls.py` explain.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common.results import print_and_save
from benchmarks.faults import hostile_calls, killed_processes
from lensemble.operations.signals import stop_on_signals


def main() -> int:
    """Prints a table, then one line of JSON; returns 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="12 kills, 1,000 hostile inputs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the hostile input")
    parser.add_argument("--only", choices=("bad", "kills"), help="only one of the two")
    parser.add_argument("--save", action="store_true", help="write results/faults[-ONLY].json")
    options = parser.parse_args()
    kills, inputs = (12, 1_000) if options.quick else (100, 20_000)
    hostile: dict[str, Any] = {}
    killed: dict[str, Any] = {}
    with stop_on_signals(), TemporaryDirectory() as folder:
        if options.only != "kills":
            hostile = hostile_calls.send_hostile_calls(
                inputs, Path(folder) / "bad", options.seed, measure_rest=True
            )
        if options.only != "bad":
            killed = killed_processes.kill_processes(kills, Path(folder) / "kills")
    print(f"{'fault':24} {'times':>6} {'recovery s':>11} {'most':>6}  errors that a caller sees")
    for fault, summary in killed.get("faults", {}).items():
        errors = ", ".join(f"{name}: {count}" for name, count in summary["errors"].items())
        seconds = f"{summary['recovery_s']:>11} {summary['recovery_s_most']:>6}"
        print(f"{fault:24} {summary['times']:>6} {seconds}  {errors or 'none'}")
    for kind, wrong in hostile.get("wrong", {}).items():
        print(f"wrong answer to {kind}: {wrong}")
    results = {**killed, **hostile}
    name = f"faults-{options.only}" if options.only else "faults"
    print_and_save(name, {"seed": options.seed}, results, options.save)
    harm = ("lost_writes", "left_behind", "workers_died", "sound_touched", "wrong")
    return int(any(results.get(name) for name in harm))


if __name__ == "__main__":
    sys.exit(main())
