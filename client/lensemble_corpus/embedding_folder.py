"""`lensemble corpus embed`: embeds the rows of a source and writes a folder of embeddings.

`embeddings_manifest` describes the folder. Work that was interrupted continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lensemble_client.client import Client
from lensemble_client.connection import DEFAULT_CONCURRENCY
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError, StorageError
from lensemble_corpus.durable_files import flush_to_disk, move_into_place, write_file
from lensemble_corpus.embedding_run import EmbeddingRun
from lensemble_corpus.embeddings_manifest import (
    DIGESTS,
    FAILED,
    MANIFEST,
    METADATA,
    NPY,
    PARQUET,
    WORK,
    EmbeddingsManifest,
    FileKind,
)
from lensemble_corpus.journal import Journal, VectorSettings
from lensemble_corpus.source import VECTOR_NUMBER_FIELD, EmbeddableRow, RefusedRow, Source
from lensemble_corpus.sync.table_digest import TableDigest, digest_of_name

# Temporary file in `work`: the rows that have a vector, one JSON object per line.
_ROWS_FILE = "rows.jsonl.part"
_RESULTS = (MANIFEST, NPY, METADATA, PARQUET, DIGESTS)


@dataclass(frozen=True, slots=True)
class EmbeddingSummary:
    """The result of `embed_source`.

    Attributes:
        count: Number of rows with a vector.
        failed: Number of rows without one; `failed.json` has the reasons.
        sent: Number of rows that this call sent to the server.
        dimension: Length of each vector; 0 if there are none.
        unchanged: Whether an earlier call had already written exactly this content.
    """

    count: int
    failed: int
    sent: int
    dimension: int
    unchanged: bool


def embed_source(
    client: Client,
    source: Source,
    out: Path,
    *,
    kind: FileKind = "npy",
    dimensions: int | None = None,
    embedder: str = contract.NATIVE,
    concurrency: int = DEFAULT_CONCURRENCY,
    again: bool = False,
    progress: bool = False,
) -> EmbeddingSummary:
    """Embeds the rows that are not embedded yet, and writes all vectors.

    A row that fails is left out and listed in `failed.json`. A row that the server refused is not
    sent again until it changes, and a row that failed for another reason is sent again by the next
    call. If the server cannot be reached, the call ends, and the vectors made until then are kept.

    Args:
        client: Client of a running server.
        source: Rows to embed.
        out: Folder to write; missing, empty, or written by an earlier call.
        kind: `npy` for vectors and metadata in two files, `parquet` for one file with both.
        dimensions: Matryoshka length of the vectors; None takes the profile's full length.
        embedder: Name of the embedder, as in `Client.embed`.
        concurrency: Number of requests that run at the same time.
        again: Whether to discard the vectors of earlier calls, and to write all files again.
        progress: Whether to show a progress bar on standard error.

    Raises:
        InvalidInputError: `out` contains other files, was begun by an earlier version, or contains
            vectors of another profile, length or embedder.
        NotReadyError: The server cannot be reached.
        StorageError: `out` cannot be written, or its journal is damaged.
        ImportError: PyArrow is needed and not installed.
    """
    if kind == "parquet":
        # Fail now if PyArrow is missing, not after hours of work.
        from lensemble_corpus import parquet_files  # noqa: F401
    _check_target(out)
    with Journal(out / WORK, start_over=again) as journal:
        _check_settings(journal.settings, dimensions, embedder)
        run = EmbeddingRun(client, journal, dimensions, embedder, concurrency)
        try:
            return _embed_and_write(run, source, out, kind, progress, rewrite=again)
        except OSError as error:
            raise StorageError(f"cannot write {str(out)!r}: {error}", field="out") from error


def _embed_and_write(
    run: EmbeddingRun, source: Source, out: Path, kind: FileKind, progress: bool, *, rewrite: bool
) -> EmbeddingSummary:
    """Embeds the rows and writes the folder; with `rewrite`, even if it seems to be finished."""
    places = array("q")  # of the vectors in the journal
    content_hash = hashlib.sha256(f"{kind} {source.id_field} {source.name!a}".encode())
    rows_file, failures_file = out / WORK / _ROWS_FILE, out / f"{FAILED}.part"
    digests_file = out / f"{DIGESTS}.part"
    table = digest_of_name(source.name)
    failed = 0
    with ExitStack() as stack:
        rows = stack.enter_context(rows_file.open("w", encoding="utf-8"))
        failures = stack.enter_context(failures_file.open("w", encoding="utf-8"))
        digests = stack.enter_context(digests_file.open("w", encoding="ascii"))
        bar = stack.enter_context(
            tqdm(desc="embed", total=source.total, unit="row", disable=not progress)
        )
        outcomes = stack.enter_context(closing(run.outcomes(source)))
        for row, outcome in outcomes:  # an outcome is the vector's place, or an error
            if isinstance(outcome, LensembleError):
                line = json.dumps(_failure(row, outcome))
                failures.write(f"{',' if failed else '['}\n{line}")
                failed += 1
            else:
                assert isinstance(row, EmbeddableRow)
                line = f'{row.json_text[:-1]}, "{VECTOR_NUMBER_FIELD}": {len(places)}}}'
                rows.write(f"{line}\n")
                digest = TableDigest(table, row.digest.hex())
                digests.write(f"{digest}\n")
                places.append(outcome)
            content_hash.update(f"{outcome!r} {line}\n".encode())
            bar.update(1)
        failures.write("\n]\n" if failed else "[]\n")
    run.journal.commit()
    run.check_profile()
    settings = run.journal.settings
    if settings is None or not places:  # there is nothing to write but the failures
        rows_file.unlink()
        digests_file.unlink()
        _remove_results(out)
        move_into_place(failures_file, out / FAILED)
        return EmbeddingSummary(0, failed, run.sent, 0, False)
    content_hash.update(json.dumps(asdict(settings)).encode())
    manifest = EmbeddingsManifest(
        profile=settings.profile,
        dimension=settings.dimension,
        asked=settings.requested_dimensions,
        embedder=settings.embedder,
        kind=kind,
        count=len(places),
        failed=failed,
        id_field=source.id_field,
        content=content_hash.hexdigest(),
    )
    unchanged = not rewrite and _is_finished(out, manifest)
    if unchanged:
        failures_file.unlink()
        digests_file.unlink()
    else:
        _finish(out, manifest, rows_file, run.journal.read(places))
    rows_file.unlink()
    return EmbeddingSummary(len(places), failed, run.sent, settings.dimension, unchanged)


def _finish(
    out: Path,
    manifest: EmbeddingsManifest,
    rows_file: Path,
    vectors: Iterator[NDArray[np.float32]],
) -> None:
    """Writes all files under temporary names, removes the old manifest, and renames the files.

    The new manifest is written last. So a folder with a manifest is complete, even after a crash.
    """
    if manifest.kind == "parquet":
        from lensemble_corpus import parquet_files

        parquet_files.write(out / f"{PARQUET}.part", rows_file, vectors, manifest.dimension)
    else:
        _write_npy(out / f"{NPY}.part", vectors, (manifest.count, manifest.dimension))
        with (
            rows_file.open(encoding="utf-8") as rows,
            (out / f"{METADATA}.part").open("w", encoding="utf-8") as file,
        ):
            for number, line in enumerate(rows):
                file.write(f"{',' if number else '['}\n{line.rstrip()}")
            file.write("\n]\n")
    (out / MANIFEST).unlink(missing_ok=True)
    flush_to_disk(out)
    for name in (*manifest.files, FAILED):
        move_into_place(out / f"{name}.part", out / name)
    for name in set(_RESULTS) - {MANIFEST, *manifest.files}:
        (out / name).unlink(missing_ok=True)
    sizes = {name: (out / name).stat().st_size for name in (*manifest.files, FAILED)}
    complete = replace(manifest, sizes=sizes)
    write_file(out / MANIFEST, json.dumps(asdict(complete), indent=2) + "\n")


def _remove_results(out: Path) -> None:
    """Removes what an earlier call wrote, the manifest first: it would claim a finished folder."""
    for name in _RESULTS:
        (out / name).unlink(missing_ok=True)
    flush_to_disk(out)


def _write_npy(path: Path, chunks: Iterator[NDArray[np.float32]], shape: tuple[int, int]) -> None:
    """Writes an array of the shape (N, D) in chunks, so that memory never holds all of it."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        for chunk in chunks:
            file.write(chunk.astype("<f4", copy=False).tobytes())


def _failure(row: EmbeddableRow | RefusedRow, error: LensembleError) -> dict[str, str]:
    """Returns the entry of a failed row in `failed.json`."""
    if isinstance(row, EmbeddableRow):
        id_, paths = row.entry.id, ", ".join(map(str, row.entry.images))
    else:
        id_, paths = row.id, ""
    return {"where": row.where, "id": id_, "path": paths, "error": str(error)}


def _is_finished(out: Path, manifest: EmbeddingsManifest) -> bool:
    """Whether the folder already has exactly this content, in files of the recorded sizes."""
    try:
        before = EmbeddingsManifest.load(out)
    except InvalidInputError:
        return False
    names = (*manifest.files, FAILED)
    sizes = {name: _size_of(out / name) for name in names}
    return replace(before, sizes={}) == manifest and before.sizes == sizes


def _size_of(path: Path) -> int | None:
    """The bytes of a file; None if there is no such file."""
    return path.stat().st_size if path.is_file() else None


def _check_target(out: Path) -> None:
    """Checks that the folder is new, or was written by an earlier call."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InvalidInputError(f"{str(out)!r} is not a folder", field="out")
    names = {path.name for path in out.iterdir()}
    if names and not names & {WORK, MANIFEST}:
        raise InvalidInputError(
            f"{str(out)!r} contains other files ({', '.join(sorted(names)[:3])}); give a new "
            "folder",
            field="out",
        )


def _check_settings(settings: VectorSettings | None, dimensions: int | None, embedder: str) -> None:
    """Checks that the new vectors can be compared with those of earlier calls."""
    if settings is not None and (settings.requested_dimensions, settings.embedder) != (
        dimensions,
        embedder,
    ):
        raise InvalidInputError(
            f"the folder has vectors of embedder {settings.embedder!r} with dimensions "
            f"{settings.requested_dimensions or 'full'}, but the call is for {embedder!r} with "
            f"dimensions {dimensions or 'full'}; give another folder, or embed all rows again "
            "(--again)",
            field="dimensions",
        )
