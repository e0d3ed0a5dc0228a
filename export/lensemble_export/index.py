"""A folder of pictures -> vectors -> an index.

Each picture is one item. Its id is its path inside the folder; its document is the JSON object in
the file of the same name with `.json` in place of the picture's ending, or `{"file": <id>}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lensemble.config import Settings
from lensemble.encoder import Embedding
from lensemble.index import check_id
from lensemble.index.exact import ExactIndex, check_target
from lensemble.pipeline import Pipeline
from lensemble_client.errors import InvalidInputError, LensembleError
from lensemble_client.items import Item

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class Built:
    """What `build_index` did.

    Attributes:
        count: Pictures in the index.
        dimension: Length of its vectors.
        failed: Path inside the folder -> why it is not in the index.
    """

    count: int
    dimension: int
    failed: dict[str, str] = field(default_factory=dict)


def build_index(
    pictures: Path,
    out: Path,
    settings: Settings,
    *,
    dimensions: int | None = None,
    skip_bad: bool = False,
    progress: bool = False,
) -> Built:
    """Embeds every picture under a folder and writes an exact index.

    Args:
        pictures: Folder, searched with its subfolders for JPEG, PNG, WebP, GIF, BMP and TIFF.
        out: Folder of the index; one that stands there is replaced.
        settings: Checkpoint, precision, device.
        dimensions: Matryoshka length of the vectors; the profile's full one if None.
        skip_bad: Whether pictures that cannot be read are left out; otherwise they end the work
            before anything is written.
        progress: Whether to show a progress bar.

    Raises:
        InvalidInputError: There are no pictures, or some cannot be read.
    """
    check_target(out.resolve())
    paths = sorted(
        path for path in pictures.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
    )
    if not paths:
        raise InvalidInputError(
            f"no pictures under {str(pictures)!r} (looked for {', '.join(ENDINGS)})",
            field="pictures",
        )
    documents = {path: _document(path, pictures) for path in paths}
    pipeline = Pipeline(settings)
    profile = pipeline.checkpoint.profile
    length = profile.check_dimensions(dimensions)
    vectors: dict[Path, Embedding] = {}
    failed: dict[str, str] = {}
    with tqdm(desc="embed", total=len(paths), unit="picture", disable=not progress) as bar:
        for start in range(0, len(paths), _AT_A_TIME):
            group = paths[start : start + _AT_A_TIME]
            items: dict[Path, Item] = {}
            for path in group:
                try:
                    check_id(_id(path, pictures))
                    items[path] = Item.of(image=path)
                except LensembleError as error:
                    failed[_id(path, pictures)] = str(error)
            results = pipeline.embed(list(items.values()), length)
            for path, result in zip(items, results, strict=True):
                if isinstance(result, LensembleError):
                    failed[_id(path, pictures)] = str(result)
                else:
                    vectors[path] = result
            bar.update(len(group))
    if failed and not skip_bad:
        lines = "\n".join(f"  {name!a}: {why}" for name, why in failed.items())
        raise InvalidInputError(
            f"{len(failed)} of {len(paths)} pictures cannot be embedded; repair or remove them, or "
            f"skip them (--skip-bad):\n{lines}",
            field="pictures",
        )
    if not vectors:
        raise InvalidInputError("no picture can be read", field="pictures")
    index = ExactIndex(
        np.stack(list(vectors.values())),
        [_id(path, pictures) for path in vectors],
        [json.dumps(documents[path], ensure_ascii=False) for path in vectors],
        profile,
    )
    index.save(out)
    return Built(len(vectors), length, failed)


def _id(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _document(path: Path, folder: Path) -> dict[str, object]:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return {"file": _id(path, folder)}
    try:
        document = json.loads(sidecar.read_text())
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InvalidInputError(f"{str(sidecar)!r}: {error}", field="pictures") from error
    return document
