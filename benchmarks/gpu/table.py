"""Prints all result files of a run as one table: what the run showed, and what is missing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

STEPS = ("right", "ceiling", "encoder", "peers", "served", "compiled")


def main() -> None:
    """Prints the table, then one JSON line: step -> whether its result is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    there = {}
    for name in STEPS:
        path = out / f"{name}.json"
        there[name] = path.is_file()
        if not path.is_file():
            print(f"== {name}: no result")
            continue
        content = json.loads(path.read_text())
        results = content["results"]
        print(f"== {name} ({content['params']['shape']}, {content['machine']['gpu'] or 'CPU'})")
        for row in results.pop("rows", []):
            print("  " + "  ".join(f"{key}={value}" for key, value in row.items()))
        for key, value in results.items():
            print(f"  {key}: {value}")
    print(json.dumps(there, separators=(",", ":")))


if __name__ == "__main__":
    main()
