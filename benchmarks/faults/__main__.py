"""What a supervised server bears: processes that are killed or stopped, and hostile input.

    python -m benchmarks.faults [--quick] [--only bad|kills] [--save]

Ends with one line of JSON: `kills`, `lost_writes`, `worst_recovery_s`, `bad_inputs`,
`workers_died` and more. `kills` and `bad` say what each means.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common.measure import finish
from benchmarks.faults import bad, kills
from lensemble.operations.tritonserver import stop_on_signals


def main() -> int:
    """Prints a table, then one line of JSON; 1 if something was lost, died or stayed behind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a dozen kills, 1,000 inputs")
    parser.add_argument("--seed", type=int, default=0, help="of hostile input")
    parser.add_argument("--only", choices=("bad", "kills"), help="one of both")
    parser.add_argument("--save", action="store_true", help="write results/faults[-ONLY].json")
    given = parser.parse_args()
    times, inputs = (12, 1_000) if given.quick else (100, 20_000)
    hostile: dict[str, Any] = {}
    killed: dict[str, Any] = {}
    with stop_on_signals(), TemporaryDirectory() as folder:
        if given.only != "kills":
            hostile = bad.run(inputs, Path(folder) / "bad", given.seed)
        if given.only != "bad":
            killed = kills.run(times, Path(folder) / "kills")
    print(f"{'fault':24} {'times':>6} {'recovery s':>11} {'most':>6}  what a caller sees meanwhile")
    for fault, one in killed.get("faults", {}).items():
        errors = ", ".join(f"{name}: {count}" for name, count in one["errors"].items())
        print(
            f"{fault:24} {one['times']:>6} {one['recovery_s']:>11} {one['recovery_s_most']:>6}"
            f"  {errors or 'nothing'}"
        )
    for kind, wrong in hostile.get("wrong", {}).items():
        print(f"wrong answer to {kind}: {wrong}")
    results = {**killed, **hostile}
    name = f"faults-{given.only}" if given.only else "faults"
    finish(name, {"seed": given.seed}, results, given.save)
    harm = ("lost_writes", "left_behind", "workers_died", "sound_touched", "wrong")
    return int(any(results.get(name) for name in harm))


if __name__ == "__main__":
    sys.exit(main())
