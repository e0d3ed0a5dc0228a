"""Checks of the checkpoint, the graphs, the index and the other embedders."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lensemble.operations.doctor.finding import FAULT, OK, WARNING, Finding

if TYPE_CHECKING:
    from lensemble.settings import Settings

_MIN_DISK = 1024**3


def checkpoint(settings: Settings, *, full: bool) -> Iterator[Finding]:
    """Opens the checkpoint; `full` hashes the weights, too."""
    from lensemble.checkpoint import Checkpoint

    profile = Checkpoint.open(settings.checkpoint, full=full).profile
    yield Finding(
        OK,
        "checkpoint",
        f"{profile.name}, {profile.dimension} dimensions; all files match its profile",
    )


def engine(settings: Settings, *, full: bool) -> Iterator[Finding]:
    """Opens the ONNX graphs, if there are any; `full` hashes their weights, too."""
    if settings.engine != "onnx" and settings.onnx is None and not settings.graphs.is_dir():
        return
    from lensemble.checkpoint import Checkpoint
    from lensemble.encoder.onnx.graph_files import ExportedGraphs

    opened = Checkpoint.open(settings.checkpoint)
    graphs = ExportedGraphs.open(settings.graphs, opened, full=full)
    if importlib.util.find_spec("onnxruntime") is None:
        yield Finding(
            FAULT if settings.engine == "onnx" or settings.onnx else WARNING,
            "onnx",
            "there are graphs, but ONNX Runtime is not installed",
            "run `pip install '.[onnx]'` in the checkout",
        )
        return
    unused = "; LENSEMBLE_ENGINE=torch does not use them" if settings.engine == "torch" else ""
    yield Finding(OK, "onnx", f"graphs of this checkpoint in {graphs.precision}{unused}")


def index(settings: Settings, *, full: bool) -> Iterator[Finding]:
    """Opens the index and compares its profile; `full` reads its snapshot, too."""
    if settings.index is None:
        yield Finding(OK, "index", "none: embeddings only")
        return
    from lensemble.checkpoint import Checkpoint
    from lensemble.index.checks import check_profile
    from lensemble.index.storage.schema import STORE_FILE
    from lensemble.index.storage.store import Store

    if settings.writes == "on" and not (settings.index / STORE_FILE).is_file():
        yield Finding(OK, "index", f"{str(settings.index)!r} will be created")
        return
    profile = Checkpoint.open(settings.checkpoint).profile
    with Store.open(settings.index) as store:
        check_profile(store.profile_name, store.profile_hash, profile.hash)
        if full:
            yield from _snapshot(settings.index, store.snapshot)
    free = shutil.disk_usage(settings.index).free
    if settings.writes == "on" and free < _MIN_DISK:
        yield Finding(
            WARNING,
            "disk",
            f"{free / 1e9:.1f} GB free for writes",
            "free some space, or move the index",
        )


def _snapshot(folder: Path, name: str) -> Iterator[Finding]:
    from lensemble.index.snapshots.manifest import is_intact, read_manifest

    if not name:
        yield Finding(OK, "index", "no snapshot yet")
    elif not is_intact(folder, name):
        yield Finding(
            FAULT,
            "index",
            f"snapshot {name!r} is damaged",
            f"lensemble index compact {folder} builds a new one from the stored items",
        )
    elif manifest := read_manifest(folder, name):
        text = f"{manifest.count} items, {manifest.kind}, recall@10 {manifest.recall_at_10:.3f}"
        yield Finding(OK, "index", text)


def embedders(settings: Settings) -> Iterator[Finding]:
    """Looks for the models of the other embedders that are folders; downloads nothing."""
    from lensemble.embedders.model_files import find_model

    for name, model in (("clip", settings.clip), ("sentence", settings.sentence)):
        if model is None:
            continue
        folder = Path(model).expanduser()
        if folder.is_dir():
            find_model(model, settings.variable(name))
            yield Finding(OK, name, str(folder))
        elif model.startswith(("/", ".", "~")) or model.count("/") > 1:
            yield Finding(
                FAULT,
                settings.variable(name),
                f"there is no folder {model!r}",
                "give the folder of a model in Hugging Face format, or an id on the hub",
            )
    if settings.sentence is not None and not importlib.util.find_spec("sentence_transformers"):
        yield Finding(
            FAULT,
            "sentence",
            "sentence-transformers is not installed",
            "run `pip install '.[hybrid]'` in the checkout",
        )
