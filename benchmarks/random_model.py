"""The small Qwen3-VL with random weights that encoder benchmarks run on."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lensemble_export.convert import convert
from lensemble_export.random_checkpoint import write_random_checkpoint

FOLDER = Path(".cache/random")


def random_serving_checkpoint(folder: Path = FOLDER) -> Path:
    """Path of its serving checkpoint; made if it is missing."""
    serving = folder / "checkpoint"
    if not (serving / "profile.json").is_file():
        print("checkpoint: a small Qwen3-VL with random weights", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        write_random_checkpoint(folder / "source")
        convert(str(folder / "source"), serving)
    return serving
