"""How many processes serve a model: by cores, which no config.pbtxt can count.

    python -m lensemble.instances FOLDER

writes the models with this machine's counts, for a `tritonserver` that is not started by
`lensemble up`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from lensemble.config import Settings
from lensemble.installation import model_repository
from lensemble_client import contract

_COUNT = re.compile(r"count: \d+")

_MOST_PREPROCESS = 8
"""Each core prepares some 150 photographs a second, and each instance holds half a gigabyte."""


def counted(settings: Settings) -> Settings:
    """These settings with the number of `preprocess` that suits this machine in place of 0.

    Args:
        settings: What is not 0 there, stands.
    """
    if settings.preprocess_instances:
        return settings
    cores = len(os.sched_getaffinity(0))
    return replace(settings, preprocess_instances=min(max(2, cores), _MOST_PREPROCESS))


def write_repository(settings: Settings, target: Path) -> Path:
    """Copies the package's models, with the number of instances that suits this machine.

    Args:
        settings: The server's, `counted` or not.
        target: A folder that does not exist, or an older copy, which is replaced.

    Returns:
        The folder.
    """
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(model_repository(), target, ignore=shutil.ignore_patterns("__pycache__"))
    settings = counted(settings)
    counts = {
        contract.PREPROCESS.name: settings.preprocess_instances,
        contract.QWEN3_VL.name: settings.encoder_instances,
    }
    for model, count in counts.items():
        config = target / model / "config.pbtxt"
        config.write_text(_COUNT.sub(f"count: {count}", config.read_text()))
    return target


def main() -> None:
    """Writes the models and says where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what is there is replaced")
    sys.stdout.write(f"{write_repository(Settings.from_env(), parser.parse_args().folder)}\n")


if __name__ == "__main__":
    main()
