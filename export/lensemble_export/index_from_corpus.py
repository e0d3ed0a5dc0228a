"""Builds an index from a corpus or a folder of pictures, which it embeds in this process.

`lensemble_corpus.entries` describes the folders from which items can be read.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from lensemble.index.maintenance.create import check_replaceable, write_index
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item
from lensemble_corpus.entries import find_entries
from lensemble_export.kept_vectors import kept_vectors

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
    replace: bool = False,
    progress: bool = False,
) -> IndexSummary:
    """Embeds every item of a folder and writes an index.

    If a build ends early, the vectors that it has made stay in a folder beside the index
    (`kept_vectors`), and the next build embeds only the rest.

    Args:
        source: folder with `corpus.jsonl`, or with pictures (JPEG, PNG, WebP, GIF, BMP, TIFF), also
            in its subfolders.
        out: folder of the index.
        settings: checkpoint, precision, device.
        dimensions: Matryoshka length of the vectors; None for the profile's full length.
        plan: index plan; None chooses one by the number of items.
        fields: document fields that get an SQL index, for filters.
        skip_bad: whether to leave out items that cannot be embedded; otherwise one such item is an
            error, and nothing is written.
        replace: whether an index with items in that folder may be replaced; it is then kept beside
            the new one (`replaced_folder`).
        progress: whether to show a progress bar.

    Raises:
        InvalidInputError: There are no items, or some cannot be embedded; or the folder contains
            something else, or an index that may not be replaced.
    """
    existing: Literal["keep", "refuse"] = "keep" if replace else "refuse"
    check_replaceable(out.resolve(), existing)
    entries = find_entries(source)
    pipeline = Pipeline(settings)
    profile = pipeline.checkpoint.profile
    length = profile.check_dimensions(dimensions)
    places: dict[str, int] = {}  # id -> place of its vector in `kept`
    digests: dict[str, str] = {}
    failed: dict[str, str] = {}
    with (
        kept_vectors(out, profile, length) as kept,
        tqdm(desc="embed", total=len(entries), unit="item", disable=not progress) as bar,
    ):
        for start in range(0, len(entries), _BLOCK_ITEMS):
            block = entries[start : start + _BLOCK_ITEMS]
            items: dict[str, Item] = {}
            for entry in block:
                try:
                    record = entry.record()
                except LensembleError as error:
                    failed[entry.id] = str(error)
                    continue
                digests[entry.id] = record.digest()
                if (place := kept.find(record.item)) is not None:
                    places[entry.id] = place
                else:
                    items[entry.id] = record.item
            results = pipeline.embed(list(items.values()), length)
            for (id_, item), result in zip(items.items(), results, strict=True):
                if isinstance(result, LensembleError):
                    failed[id_] = str(result)
                else:
                    places[id_] = kept.add(item, result)
            bar.update(len(block))
        if failed and not skip_bad:
            lines = "\n".join(f"  {id_!a}: {reason}" for id_, reason in failed.items())
            raise InvalidInputError(
                f"{len(failed)} of {len(entries)} items cannot be embedded; repair or remove them, "
                f"or leave them out (--skip-bad). The vectors of the others are kept in "
                f"{str(kept.folder)!r} for the next build:\n{lines}",
                field="source",
            )
        if not places:
            raise InvalidInputError("no item can be embedded", field="source")
        stored = [entry for entry in entries if entry.id in places]
        write_index(
            out,
            profile,
            kept.read(array("q", [places[entry.id] for entry in stored])),
            [entry.id for entry in stored],
            [json.dumps(entry.document) for entry in stored],
            # The client computes the same digests, so it does not send these items again.
            digests=[digests[entry.id] for entry in stored],
            plan=plan,
            fields=fields,
            threads=len(os.sched_getaffinity(0)),
            existing=existing,
        )
    kept.remove()
    return IndexSummary(len(places), length, failed)
