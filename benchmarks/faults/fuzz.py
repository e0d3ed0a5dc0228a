"""Coverage-guided fuzzing of the parsers with Atheris (libFuzzer), for any number of inputs.

    pip install atheris
    python -m benchmarks.faults.fuzz pictures|filters [--runs 100000]

A crash, or an error other than `InvalidInputError`, ends it and shows the input.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common.workloads import WORKLOADS


def main() -> None:
    """Runs `--runs` inputs, or until it finds a fault; libFuzzer then ends the process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults.fuzz", description=__doc__)
    parser.add_argument("target", choices=("pictures", "filters"))
    parser.add_argument("--runs", type=int, default=100_000)
    options = parser.parse_args()
    atheris: Any = importlib.import_module("atheris")  # only this command needs it
    with atheris.instrument_imports(
        include=["PIL", "lensemble.preprocess.decode_picture", "lensemble_contract.filters"]
    ):
        from lensemble.checkpoint import Checkpoint
        from lensemble.index.storage.filter import Filter
        from lensemble.preprocess.patches import picture_to_patches
        from lensemble_contract.errors import InvalidInputError

    profile = Checkpoint.open(WORKLOADS["demo"].checkpoint()).profile

    def decode(data: bytes) -> None:
        try:
            picture_to_patches(data, profile.image)
        except InvalidInputError:
            pass

    def parse_filter(data: bytes) -> None:
        try:
            Filter.parse(data.decode("utf-8", "replace"))
        except InvalidInputError:
            pass

    with TemporaryDirectory() as folder:
        for number, seed in enumerate(_seeds(options.target)):
            (Path(folder) / str(number)).write_bytes(seed)
        fuzzer_options = [
            f"-runs={options.runs}",
            "-max_len=8192",
            "-timeout=20",
            "-rss_limit_mb=4096",
        ]
        target = decode if options.target == "pictures" else parse_filter
        atheris.Setup([sys.argv[0], *fuzzer_options, folder], target)
        atheris.Fuzz()


def _seeds(target: str) -> list[bytes]:
    from tests.faults.test_fuzz import PICTURES

    if target == "pictures":
        return [*PICTURES]
    return [
        b'{"year": {"$gte": 2015, "$lt": 2020}, "$or": [{"door": true}, {"a.b": null}]}',
        b'{"$and": [{"make": {"$in": ["seat", 1.5]}}, {"x": {"$not": {"$exists": false}}}]}',
    ]


if __name__ == "__main__":
    main()
