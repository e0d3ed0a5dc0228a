"""`make bench`: the short set of benchmarks, each in a process of its own.

It ends with one line of JSON: ratios, each measured within one run on this machine's cores. The
docstrings of `serving/served.py`, `peers/run_comparison.py` and `encoder/preprocess.py` explain
them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

Figures = dict[str, Any]


def run(*arguments: str) -> Figures:
    """Runs a benchmark, prints its output, and returns its closing line of JSON."""
    print(f"\n$ python -m {' '.join(arguments)}", flush=True)
    completed = subprocess.run(
        [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    *printed, last = completed.stdout.strip().splitlines()
    print("\n".join(printed), flush=True)
    figures: Figures = json.loads(last)
    return figures


def main() -> None:
    """Runs the benchmarks one after the other."""
    preprocess = run("benchmarks.encoder.preprocess", "--quick")
    served = run("benchmarks.serving.served", "--quick")
    peers = run("benchmarks.peers", "--quick")
    demo, small = served["demo"], served["small"]
    keys = {
        "served_over_inprocess": small["served_over_inprocess"],
        "served_over_inprocess_demo": demo["served_over_inprocess"],
        "served_over_inprocess_demo_b32": demo["served_over_inprocess_b32"],
        "served_over_naive": peers["demo"]["served_over_naive"],
        "served_over_sentence_transformers": peers["demo"]["served_over_sentence_transformers"],
        "served_onnx_over_sentence_transformers": peers["demo"][
            "served_onnx_over_sentence_transformers"
        ],
        "p99_over_p50_at_80": demo["p99_over_p50_at_80"],
        "search_over_embed": demo["search_over_embed"],
        "pictures_per_s_per_core_preprocess": preprocess["pictures_per_s_per_core_preprocess"],
    }
    print(json.dumps(keys, separators=(",", ":")))


if __name__ == "__main__":
    main()
