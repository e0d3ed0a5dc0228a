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
from pathlib import Path

from lensemble.config import Settings
from lensemble.installation import model_repository
from lensemble_client import contract

_COUNT = re.compile(r"count: \d+")

_MOST_PREPROCESS = 8
"""Each core prepares some 150 photographs a second, and each instance holds half a gigabyte."""


def counts(settings: Settings) -> dict[str, int]:
    """Model -> its instances, of those whose number is not fixed.

    Args:
        settings: What is not 0 there, stands.
    """
    cores = len(os.sched_getaffinity(0))
    return {
        contract.PREPROCESS.name: settings.preprocess_instances
        or min(max(2, cores), _MOST_PREPROCESS),
        contract.QWEN3_VL.name: settings.encoder_instances,
    }


def write_repository(settings: Settings, target: Path) -> Path:
    """Copies the package's models, with the number of instances that suits this machine.

    Args:
        settings: The server's.
        target: A folder that does not exist, or an older copy, which is replaced.

    Returns:
        The folder.
    """
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(model_repository(), target, ignore=shutil.ignore_patterns("__pycache__"))
    for model, count in counts(settings).items():
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
