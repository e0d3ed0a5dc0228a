"""`python -m benchmarks.load SCENARIO`: one load test, from starting the server to the report.

The exit status is 0 if all limits were met, 1 if not, 2 if the scenario could not be run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.load.report.html import write_page
from benchmarks.load.report.limits import format_failures
from benchmarks.load.report.plots import draw_plots
from benchmarks.load.report.result_files import closing_line, content, save, save_without_latencies
from benchmarks.load.report.tables import format_tables
from benchmarks.load.run_scenario import run_scenario
from benchmarks.load.scenario import FOLDER as SCENARIOS
from benchmarks.load.scenario import load_scenario
from lensemble.operations.signals import stop_on_signals
from lensemble_contract.errors import LensembleError

FOLDER = Path(".cache/load")
RESULTS = Path("benchmarks/results")


def main() -> int:
    """Runs the scenario, prints tables and one line of JSON, and returns the exit status."""
    arguments = _parser().parse_args()
    scenario = load_scenario(arguments.scenario)
    if arguments.seconds is not None:
        scenario = scenario.changed(seconds=arguments.seconds)
    out = arguments.out or FOLDER / scenario.name
    result = run_scenario(
        scenario, out, url=arguments.url, triton=arguments.triton, workers=arguments.workers
    )
    save(result, out)
    if arguments.save:
        save_without_latencies(content(result), RESULTS / f"load-{scenario.name}.json")
    print(format_tables(result))
    if result.failed:
        print(f"\n{format_failures(result.failed)}")
    write_page(result, draw_plots(result, out), out / "report.html")
    print(f"\nreport: {out / 'report.html'}")
    print(json.dumps({**closing_line(result), "folder": str(out)}, separators=(",", ":")))
    return 1 if result.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(path.stem for path in sorted(SCENARIOS.glob("*.toml")))
    parser.add_argument("scenario", help=f"{known}; or the path of a TOML file")
    parser.add_argument("--seconds", type=_positive, help="measured seconds of each step")
    parser.add_argument("--workers", type=_at_least_one, default=1, help="Locust processes (1)")
    parser.add_argument("--url", help="a server that is already running: grpc://, http://")
    parser.add_argument("--triton", help="URL of Triton's statistics, if --url is a gateway")
    parser.add_argument(
        "--save", action="store_true", help=f"also write {RESULTS}/load-SCENARIO.json"
    )
    parser.add_argument("--out", type=Path, help=f"folder of the results ({FOLDER}/SCENARIO)")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}; expected more than 0")
    return value


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected 1 or more")
    return value


if __name__ == "__main__":
    with stop_on_signals():
        try:
            sys.exit(main())
        except LensembleError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
