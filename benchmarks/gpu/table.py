"""Prints all result files of a run as one table, and which are missing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

STEPS = ("correctness", "ceiling", "encoder", "peers", "served", "compiled")


def main() -> None:
    """Prints the table, then one line of JSON: step -> whether its result file exists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    exists = {}
    for name in STEPS:
        path = out / f"{name}.json"
        exists[name] = path.is_file()
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
    print(json.dumps(exists, separators=(",", ":")))


if __name__ == "__main__":
    main()
