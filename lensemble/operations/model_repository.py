"""The Triton models of this package, and the repository of those that a server serves.

    python -m lensemble.operations.model_repository FOLDER

writes the served models with instance counts for this machine, for a `tritonserver` that is not
started by `lensemble up`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from lensemble.settings import Settings
from lensemble_contract import contract

_COUNT = re.compile(r"count: \d+")

# One core prepares about 150 photographs a second, and each instance holds half a gigabyte.
_MAX_PREPROCESS_INSTANCES = 8


def packaged_models() -> Path:
    """The folder of all Triton models: beside the package in the source, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "model_repository"
    return inside if inside.is_dir() else package.parent / "model_repository"


def served_models(settings: Settings) -> list[str]:
    """Names of the models that a server with these settings serves, ensembles included."""
    optional = [contract.EMBEDDER_MODELS[embedder] for embedder in settings.embedders]
    return [*contract.MODELS, *(model.name for models in optional for model in models)]


def with_instance_counts(settings: Settings) -> Settings:
    """Replaces an instance count of 0 by the count that suits this machine's cores."""
    if settings.preprocess_instances:
        return settings
    cores = len(os.sched_getaffinity(0))
    count = min(max(2, cores), _MAX_PREPROCESS_INSTANCES)
    return settings.with_changes(preprocess_instances=count)


def write_repository(settings: Settings, target: Path) -> Path:
    """Writes a model repository of the served models, for one tritonserver.

    The models are copies (a few kilobytes) and not links, because instance counts and devices are
    written into them, and because editing a repository must not change the package.

    Args:
        settings: the server's settings.
        target: a folder that does not exist, or an older repository, which is replaced.

    Returns:
        The folder.
    """
    if target.exists():
        shutil.rmtree(target)
    settings = with_instance_counts(settings)
    counts = {
        contract.PREPROCESS.name: settings.preprocess_instances,
        contract.QWEN3_VL.name: settings.encoder_instances,
    }
    for name in served_models(settings):
        folder = target / name
        shutil.copytree(
            packaged_models() / name, folder, ignore=shutil.ignore_patterns("__pycache__")
        )
        config = folder / "config.pbtxt"
        text = config.read_text()
        if name in counts:
            text = _COUNT.sub(f"count: {counts[name]}", text)
        if settings.device == "cpu":  # otherwise every GPU would get instances that do not use it
            text = text.replace("KIND_AUTO", "KIND_CPU")
        config.write_text(text)
    return target


def main() -> None:
    """Writes the repository and prints its folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the repository; an older one there is replaced")
    sys.stdout.write(f"{write_repository(Settings.from_env(), parser.parse_args().folder)}\n")


if __name__ == "__main__":
    main()
