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

_GPU = Path("/dev/nvidiactl")

_SMALL = 64 * 1024**2
"""Bytes of weights up to which a CPU has several encoders: passes of such a model take one thread
(`threads`), so there are cores to spare; docs/decisions.md has what was measured."""

_MOST_ENCODERS = 4
_MOST_PREPROCESS = 8
"""Each core prepares some 150 photographs a second, and each instance holds half a gigabyte."""


def counted(settings: Settings) -> Settings:
    """These settings with numbers of instances that suit this machine in place of 0.

    Args:
        settings: What is not 0 there, stands.
    """
    cores = len(os.sched_getaffinity(0))
    small = not _on_gpu(settings.device) and _weights(settings.checkpoint) <= _SMALL
    # Each process remembers by itself, so what comes again would be known to some of them only.
    several = small and not settings.cache_mib
    return replace(
        settings,
        preprocess_instances=settings.preprocess_instances or min(max(2, cores), _MOST_PREPROCESS),
        encoder_instances=settings.encoder_instances
        or (min(cores, _MOST_ENCODERS) if several else 1),
    )


def _on_gpu(device: str) -> bool:
    return device == "cuda" or (device == "auto" and _GPU.exists())


def _weights(checkpoint: Path) -> int:
    """Bytes of the weights; 0 if there are none, which the models will say better."""
    return sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))


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
