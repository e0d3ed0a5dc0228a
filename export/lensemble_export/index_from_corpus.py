"""A corpus or a folder of pictures -> vectors -> an index.

`lensemble_corpus.entries` says how a folder holds items.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lensemble.encoder.engine import Embedding
from lensemble.index import check_id
from lensemble.index.maintenance.create import check_target, write_index
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item
from lensemble_corpus.entries import find_entries

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
    plan: IndexPlan | None = None,
    fields: Sequence[str] = (),
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
        plan: How the index is to be searched; None goes by its size.
        fields: Of documents, that get an index for filters.
        skip_bad: Whether items that cannot be read are left out; otherwise they end the work
            before anything is written.
        progress: Whether to show a progress bar.

    Raises:
        InvalidInputError: There are no items, or some cannot be read.
    """
    check_target(out.resolve())
    entries = find_entries(source)
    pipeline = Pipeline(settings)
    profile = pipeline.checkpoint.profile
    length = profile.check_dimensions(dimensions)
    vectors: dict[str, Embedding] = {}
    digests: dict[str, str] = {}
    failed: dict[str, str] = {}
    with tqdm(desc="embed", total=len(entries), unit="item", disable=not progress) as bar:
        for start in range(0, len(entries), _AT_A_TIME):
            group = entries[start : start + _AT_A_TIME]
            items: dict[str, Item] = {}
            for entry in group:
                try:
                    check_id(entry.id)
                    record = entry.record()
                    items[entry.id], digests[entry.id] = record.item, record.digest()
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
        [json.dumps(documents[id_]) for id_ in vectors],
        # As `ingest` would send them: what is stored already is then not sent again.
        digests=[digests[id_] for id_ in vectors],
        plan=plan,
        fields=fields,
        threads=len(os.sched_getaffinity(0)),
    )
    return Built(len(vectors), length, failed)
