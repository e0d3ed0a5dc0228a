"""`python -m benchmarks.load SCENARIO`: one load test, from the server's start to the report.

The exit status is 0 if all limits were kept, 1 if not, 2 if it could not be run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.load import scenario as scenarios
from benchmarks.load.report.html import page
from benchmarks.load.report.limits import table_of
from benchmarks.load.report.plots import draw
from benchmarks.load.report.report import closing, content, keep, save, table
from benchmarks.load.run import run
from lensemble.operations.tritonserver import stop_on_signals
from lensemble_contract.errors import LensembleError

FOLDER = Path(".cache/load")
RESULTS = Path("benchmarks/results")


def main() -> int:
    """Runs, prints a table and one line of JSON, and gives the exit status."""
    given = _arguments().parse_args()
    scenario = scenarios.load(given.scenario)
    if given.seconds is not None:
        scenario = scenario.changed(seconds=given.seconds)
    out = given.out or FOLDER / scenario.name
    outcome = run(scenario, out, url=given.url, triton=given.triton, workers=given.workers)
    save(outcome, out)
    if given.save:
        keep(content(outcome), RESULTS / f"load-{scenario.name}.json")
    print(table(outcome))
    if outcome.failed:
        print(f"\n{table_of(outcome.failed)}")
    page(outcome, draw(outcome, out), out / "report.html")
    print(f"\nreport: {out / 'report.html'}")
    print(json.dumps({**closing(outcome), "folder": str(out)}, separators=(",", ":")))
    return 1 if outcome.failed else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(path.stem for path in sorted(scenarios.FOLDER.glob("*.toml")))
    parser.add_argument("scenario", help=f"{known}; or the path of a TOML file")
    parser.add_argument("--seconds", type=_positive, help="measured, of each step")
    parser.add_argument("--workers", type=_whole, default=1, help="Locust processes (1)")
    parser.add_argument("--url", help="a server that runs already: grpc://, http://")
    parser.add_argument("--triton", help="where the statistics are, if --url is a gateway")
    parser.add_argument("--save", action="store_true", help=f"also {RESULTS}/load-SCENARIO.json")
    parser.add_argument("--out", type=Path, help=f"folder of the results ({FOLDER}/SCENARIO)")
    return parser


def _positive(said: str) -> float:
    value = float(said)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{said!r}; expected more than 0")
    return value


def _whole(said: str) -> int:
    value = int(said)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{said!r}; expected 1 or more")
    return value


if __name__ == "__main__":
    with stop_on_signals():
        try:
            sys.exit(main())
        except LensembleError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
