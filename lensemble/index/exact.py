"""An exact index in a folder: every query is compared with every vector.

index.faiss      the vectors, FAISS IndexFlatIP
items.jsonl      one line per vector, in its order: {"id": ..., "document": {...}}
manifest.json    profile, count, versions, checksums of the two
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble.checkpoint import fingerprint
from lensemble.index import Match, check_id
from lensemble.profile import Profile
from lensemble_client.errors import InvalidInputError

FORMAT = 1
MANIFEST, VECTORS, ITEMS = "manifest.json", "index.faiss", "items.jsonl"

_BLAS_THRESHOLD = 2048
"""FAISS 1.15 calls BLAS from queries x dimensions = 128,000 on, 63 queries at 2,048 dimensions;
from here on it is already several times faster."""


class ExactIndex:
    """A corpus in memory, searched exactly.

    Args:
        vectors: (N, D) float32, unit length.
        ids: The caller's ids, N, unique.
        documents: JSON texts, N.
        profile: What the vectors were made under.

    Raises:
        InvalidInputError: Lengths differ, or an id stands twice.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32],
        ids: Sequence[str],
        documents: Sequence[str],
        profile: Profile,
    ) -> None:
        faiss = _faiss()
        if not len(vectors) == len(ids) == len(documents):
            raise InvalidInputError(
                f"{len(vectors)} vectors, {len(ids)} ids, {len(documents)} documents", field="index"
            )
        if len(set(ids)) != len(ids):
            twice = next(id_ for n, id_ in enumerate(ids) if id_ in ids[:n])
            raise InvalidInputError(f"id {twice!r} stands twice", field="index")
        for id_ in ids:
            check_id(id_)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors, np.float32))
        self._ids, self._documents = list(ids), list(documents)
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "kind": "exact",
            "profile_name": profile.name,
            "profile_hash": profile.hash,
            "dimension": vectors.shape[1],
            "count": len(ids),
            "faiss": faiss.__version__,
        }

    @property
    def manifest(self) -> dict[str, Any]:
        """See `Index.manifest`."""
        return self._manifest

    def search(self, queries: NDArray[np.float32], top_k: int) -> list[list[Match]]:
        """See `Index.search`."""
        faiss = _faiss()
        # Per calling thread. Requests run side by side; threads inside one only get in their way.
        faiss.omp_set_num_threads(1)
        k = min(top_k, len(self._ids))
        if not k:
            return [[] for _ in queries]
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return [
            [
                Match(self._ids[row], float(score), self._documents[row])
                for score, row in zip(*found, strict=True)
                if row >= 0  # FAISS fills up with -1
            ]
            for found in zip(scores, rows, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """Writes the index, all of it or nothing; an index that stands there is replaced.

        Args:
            folder: Missing, empty, or an index of this kind.

        Raises:
            InvalidInputError: The folder holds something that is not an index.
        """
        folder = folder.resolve()
        check_target(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            made.chmod(0o755)
            self._write(made)
            if folder.exists():
                old = made.with_name(f"{made.name}.old")
                folder.rename(old)
                made.rename(folder)
                shutil.rmtree(old)
            else:
                made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        _faiss().write_index(self._index, str(folder / VECTORS))
        with (folder / ITEMS).open("w") as file:
            for id_, document in zip(self._ids, self._documents, strict=True):
                file.write(json.dumps({"id": id_, "document": json.loads(document)}) + "\n")
        manifest = {**self._manifest, "files": fingerprint(folder, [VECTORS, ITEMS])}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in (*folder.iterdir(), folder):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @classmethod
    def load(cls, folder: Path) -> ExactIndex:
        """Reads an index that `save` wrote.

        Raises:
            InvalidInputError: It is missing, of another format, or damaged.
        """
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_text())
            files = {name: tuple(entry) for name, entry in manifest.pop("files").items()}
        except FileNotFoundError as error:
            raise InvalidInputError(
                f"no {MANIFEST} in {str(folder)!r}: not an index; build one with `lensemble index "
                "build`",
                field="index",
            ) from error
        except (ValueError, KeyError, AttributeError) as error:
            raise InvalidInputError(f"{str(path)!r} is damaged: {error}", field="index") from error
        if (manifest.get("format"), manifest.get("kind")) != (FORMAT, "exact"):
            raise InvalidInputError(
                f"{str(path)!r} has format {manifest.get('format')!r} and kind "
                f"{manifest.get('kind')!r}; expected {FORMAT} and 'exact'; build it again",
                field="index",
            )
        missing = [name for name in (VECTORS, ITEMS) if not (folder / name).is_file()]
        # FAISS's files carry no checksum of their own: a flipped bit would load in silence.
        if missing or fingerprint(folder, [VECTORS, ITEMS]) != files:
            raise InvalidInputError(
                f"{str(folder)!r} is damaged: {', '.join(missing) or 'a checksum'} "
                f"{'is missing' if missing else 'is wrong'}; build it again",
                field="index",
            )
        self = cls.__new__(cls)
        self._index = _faiss().read_index(str(folder / VECTORS))
        items = [json.loads(line) for line in (folder / ITEMS).read_text().splitlines()]
        self._ids = [item["id"] for item in items]
        self._documents = [json.dumps(item["document"]) for item in items]
        self._manifest = manifest
        return self


def check_target(folder: Path) -> None:
    """Refuses a folder that an index may not be written to: it would be replaced whole.

    Raises:
        InvalidInputError: It is a file, or holds anything but an index of this kind.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InvalidInputError(f"{str(folder)!r} is not a folder", field="index")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    kind = None
    if MANIFEST in names:
        with contextlib.suppress(ValueError, AttributeError):
            kind = json.loads((folder / MANIFEST).read_text()).get("kind")
    if kind != "exact" or not names <= {MANIFEST, VECTORS, ITEMS}:
        raise InvalidInputError(
            f"{str(folder)!r} holds something else than an index ({', '.join(sorted(names)[:3])}); "
            "give a new folder",
            field="index",
        )


def _faiss() -> Any:
    """FAISS, with the settings that its defaults get wrong for this use."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = _BLAS_THRESHOLD
    return faiss
