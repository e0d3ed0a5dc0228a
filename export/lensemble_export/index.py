"""A corpus or a folder of pictures -> vectors -> an index.

A folder with `corpus.jsonl` holds items as `lensemble_client.corpus` describes them. In any other,
each picture is one item: its id is its path inside the folder; its document is the JSON object in
the file of the same name with `.json` in place of the picture's ending, or `{"file": <id>}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lensemble.config import Settings
from lensemble.encoder import Embedding
from lensemble.index import check_id
from lensemble.index.create import check_target, write_index
from lensemble.pipeline import Pipeline
from lensemble_client.corpus import FILE_NAME, Entry, load_entries
from lensemble_client.errors import InvalidInputError, LensembleError
from lensemble_client.items import Item

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class Built:
    """What `build_index` did.

    Attributes:
        count: Items in the index.
        dimension: Length of its vectors.
        failed: Id -> why it is not in the index.
    """

    count: int
    dimension: int
    failed: dict[str, str] = field(default_factory=dict)


def build_index(
    source: Path,
    out: Path,
    settings: Settings,
    *,
    dimensions: int | None = None,
    skip_bad: bool = False,
    progress: bool = False,
) -> Built:
    """Embeds every item of a folder and writes an index.

    Args:
        source: Folder with `corpus.jsonl`, or with JPEG, PNG, WebP, GIF, BMP and TIFF, searched
            with its subfolders.
        out: Folder of the index; one that stands there is replaced.
        settings: Checkpoint, precision, device.
        dimensions: Matryoshka length of the vectors; the profile's full one if None.
        skip_bad: Whether items that cannot be read are left out; otherwise they end the work
            before anything is written.
        progress: Whether to show a progress bar.

    Raises:
        InvalidInputError: There are no items, or some cannot be read.
    """
    check_target(out.resolve())
    entries = load_entries(source) if (source / FILE_NAME).is_file() else _pictures(source)
    pipeline = Pipeline(settings)
    profile = pipeline.checkpoint.profile
    length = profile.check_dimensions(dimensions)
    vectors: dict[str, Embedding] = {}
    failed: dict[str, str] = {}
    with tqdm(desc="embed", total=len(entries), unit="item", disable=not progress) as bar:
        for start in range(0, len(entries), _AT_A_TIME):
            group = entries[start : start + _AT_A_TIME]
            items: dict[str, Item] = {}
            for entry in group:
                try:
                    check_id(entry.id)
                    items[entry.id] = entry.item()
                except LensembleError as error:
                    failed[entry.id] = str(error)
            results = pipeline.embed(list(items.values()), length)
            for id_, result in zip(items, results, strict=True):
                if isinstance(result, LensembleError):
                    failed[id_] = str(result)
                else:
                    vectors[id_] = result
            bar.update(len(group))
    if failed and not skip_bad:
        lines = "\n".join(f"  {name!a}: {why}" for name, why in failed.items())
        raise InvalidInputError(
            f"{len(failed)} of {len(entries)} items cannot be embedded; repair or remove them, or "
            f"skip them (--skip-bad):\n{lines}",
            field="source",
        )
    if not vectors:
        raise InvalidInputError("no item can be read", field="source")
    documents = {entry.id: entry.document for entry in entries}
    write_index(
        out,
        profile,
        np.stack(list(vectors.values())),
        list(vectors),
        [json.dumps(documents[id_], ensure_ascii=False) for id_ in vectors],
    )
    return Built(len(vectors), length, failed)


def _pictures(folder: Path) -> list[Entry]:
    """Every picture under a folder, as an item."""
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
    )
    if not paths:
        raise InvalidInputError(
            f"no pictures under {str(folder)!r} (looked for {', '.join(ENDINGS)}), and no "
            f"{FILE_NAME} in it",
            field="source",
        )
    return [
        Entry(
            id=path.relative_to(folder).as_posix(), images=(path,), document=_document(path, folder)
        )
        for path in paths
    ]


def _document(path: Path, folder: Path) -> dict[str, Any]:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return {"file": path.relative_to(folder).as_posix()}
    try:
        document = json.loads(sidecar.read_text())
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InvalidInputError(f"{str(sidecar)!r}: {error}", field="source") from error
    return document
