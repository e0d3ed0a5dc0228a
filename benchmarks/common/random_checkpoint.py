"""Serving checkpoints with random weights, in the shape that a benchmark asks for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lensemble_export.convert_checkpoint import convert_checkpoint
from lensemble_export.random_checkpoint import write_random_checkpoint

FOLDER = Path(".cache/random")


def random_serving_checkpoint(shape: str = "tiny", folder: Path = FOLDER) -> Path:
    """Returns the folder of a serving checkpoint, which is made if it is missing.

    Args:
        shape: A key of `lensemble_export.model_shapes.SHAPES`.
        folder: Folder that has one folder per shape.
    """
    serving = folder / shape / "checkpoint"
    if not (serving / "profile.json").is_file():
        print(f"checkpoint: a Qwen3-VL of shape {shape} with random weights", file=sys.stderr)
        shutil.rmtree(folder / shape, ignore_errors=True)
        write_random_checkpoint(folder / shape / "source", shape)
        convert_checkpoint(str(folder / shape / "source"), serving)
    return serving
