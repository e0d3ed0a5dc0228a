"""Exports all items of an index to formats that other programs read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lensemble.index.storage.store import Store
from lensemble_contract.errors import InvalidInputError, StorageError

VECTORS_FILE, ITEMS_FILE = "vectors.npy", "items.jsonl"


def export(folder: Path, out: Path, *, progress: bool = False) -> int:
    """Writes every item to a NumPy file and a file of JSON lines, in the same order.

    Args:
        folder: folder of the index.
        out: folder for `vectors.npy`, (N, D) float32, and `items.jsonl`, lines of `{"_id": ...,
            "document": {...}}`; neither file may exist.
        progress: whether to show a progress bar.

    Returns:
        Number N of items.

    Raises:
        InvalidInputError: There is no index, or one of the files exists.
        StorageError: The store is damaged, or the files cannot be written.
    """
    for name in (VECTORS_FILE, ITEMS_FILE):
        if (out / name).exists():
            raise InvalidInputError(
                f"{str(out / name)!r} exists already; give a new folder", field="out"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (
            Store.open(folder) as store,
            store.reading(),
            (out / ITEMS_FILE).open("w") as items_file,
            (out / VECTORS_FILE).open("wb") as vectors_file,
        ):
            count = len(store)
            header = {
                "descr": "<f4",
                "fortran_order": False,
                "shape": (count, store.dimension),
            }
            # `np.memmap` would not do: on a full disk, writing to a mapped file kills the process.
            np.lib.format.write_array_header_1_0(vectors_file, header)  # type: ignore[no-untyped-call]
            items = tqdm(store.live_items(), "export", count, unit="item", disable=not progress)
            for item in items:
                vectors_file.write(item.vector.tobytes())
                entry = {"_id": item.id, "document": json.loads(item.document)}
                items_file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write to {str(out)!r}: {error}", field="out") from error
    return count
