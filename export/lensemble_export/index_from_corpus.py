"""Builds an index from a corpus or a folder of pictures, which it embeds in this process.

`lensemble_corpus.entries` describes the folders from which items can be read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lensemble.index.checks import check_id
from lensemble.index.maintenance.create import check_target, write_index
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble.vectors import Vector
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item
from lensemble_corpus.entries import find_entries

# Number of items that are embedded at a time.
_BLOCK_ITEMS = 16


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """The result of `build_index`.

    Attributes:
        count: number of items in the index.
        dimension: length of its vectors.
        failed: id of each item that was left out -> reason.
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
) -> IndexSummary:
    """Embeds every item of a folder and writes an index.

    Args:
        source: folder with `corpus.jsonl`, or with pictures (JPEG, PNG, WebP, GIF, BMP, TIFF), also
            in its subfolders.
        out: folder of the index; replaced if it exists.
        settings: checkpoint, precision, device.
        dimensions: Matryoshka length of the vectors; None for the profile's full length.
        plan: index plan; None chooses one by the number of items.
        fields: document fields that get an SQL index, for filters.
        skip_bad: whether to leave out items that cannot be embedded; otherwise one such item is an
            error, and nothing is written.
        progress: whether to show a progress bar.

    Raises:
        InvalidInputError: There are no items, or some cannot be embedded.
    """
    check_target(out.resolve())
    entries = find_entries(source)
    pipeline = Pipeline(settings)
    profile = pipeline.checkpoint.profile
    length = profile.check_dimensions(dimensions)
    vectors: dict[str, Vector] = {}
    digests: dict[str, str] = {}
    failed: dict[str, str] = {}
    with tqdm(desc="embed", total=len(entries), unit="item", disable=not progress) as bar:
        for start in range(0, len(entries), _BLOCK_ITEMS):
            block = entries[start : start + _BLOCK_ITEMS]
            items: dict[str, Item] = {}
            for entry in block:
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
            bar.update(len(block))
    if failed and not skip_bad:
        lines = "\n".join(f"  {id_!a}: {reason}" for id_, reason in failed.items())
        raise InvalidInputError(
            f"{len(failed)} of {len(entries)} items cannot be embedded; repair or remove them, or "
            f"leave them out (--skip-bad):\n{lines}",
            field="source",
        )
    if not vectors:
        raise InvalidInputError("no item can be embedded", field="source")
    documents = {entry.id: entry.document for entry in entries}
    write_index(
        out,
        profile,
        np.stack(list(vectors.values())),
        list(vectors),
        [json.dumps(documents[id_]) for id_ in vectors],
        # The client computes the same digests, so it does not send these items again.
        digests=[digests[id_] for id_ in vectors],
        plan=plan,
        fields=fields,
        threads=len(os.sched_getaffinity(0)),
    )
    return IndexSummary(len(vectors), length, failed)
