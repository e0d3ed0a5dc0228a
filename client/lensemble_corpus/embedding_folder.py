"""Rows -> a folder of embeddings: what `lensemble corpus embed` makes.

embeddings.npy      (N, D) float32, for `np.load(..., mmap_mode="r")`
metadata.json       the N rows as they were, each with `embedding_index`, its row in that
embeddings.parquet  in place of the two, if asked for: the rows' columns, `embedding_index`,
                    `embedding`
failed.json         rows that have no vector: where, id, path, error
manifest.json       profile, dimension, count and the like; it is written last, so a folder without
                    it is not finished
work/               the journal (`journal`), for the next run
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lensemble_client.calls import Embedding, Measured
from lensemble_client.client import Client
from lensemble_client.connection import IN_FLIGHT
from lensemble_contract import contract
from lensemble_contract.errors import (
    InvalidInputError,
    LensembleError,
    NotFoundError,
    NotReadyError,
    StorageError,
)
from lensemble_contract.items import Item
from lensemble_corpus.journal import Journal, Making, put, sync, write_whole
from lensemble_corpus.tables import INDEX_FIELD, Refused, Source, Wanted, check_size

FORMAT = 1
NPY, METADATA, PARQUET = "embeddings.npy", "metadata.json", "embeddings.parquet"
FAILED, MANIFEST, WORK = "failed.json", "manifest.json", "work"
_ROWS = "rows.jsonl"
_AT_A_TIME = 4096
"""Rows that are looked at together: what is known of them is not held back by what is not."""

_OF_ALL = ("dimensions", "embedder")
"""Fields at fault in every request, if in one."""

Result = Measured[Embedding] | LensembleError


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished folder is.

    Attributes:
        profile: Hash of the profile that all vectors were made under.
        dimension: Their length.
        asked: `dimensions` of the requests; None for the profile's full length.
        embedder: Which one made them.
        kind: `npy` or `parquet`.
        count: Rows with a vector.
        failed: Rows without one.
        id_field: Where a row has its id.
        content: SHA-256 over the rows, in order, and which vector each has.
        format: Of the folder.
    """

    profile: str
    dimension: int
    asked: int | None
    embedder: str
    kind: Literal["npy", "parquet"]
    count: int
    failed: int
    id_field: str
    content: str
    format: int = FORMAT

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads it.

        Raises:
            InvalidInputError: The folder is not finished, or of another format.
        """
        path = folder / MANIFEST
        try:
            made = cls(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError as error:
            raise InvalidInputError(
                f"no {MANIFEST} in {str(folder)!r}: not a finished folder of embeddings; run "
                "`lensemble corpus embed` (again)",
                field="source",
            ) from error
        except (OSError, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"cannot read {str(path)!r}: {error}; embed again", field="source"
            ) from error
        if made.format != FORMAT:
            raise InvalidInputError(
                f"{str(path)!r} has format {made.format!r}, expected {FORMAT}; embed again",
                field="source",
            )
        return made

    @property
    def files(self) -> tuple[str, ...]:
        """Those with the vectors and the rows."""
        return (NPY, METADATA) if self.kind == "npy" else (PARQUET,)


@dataclass(frozen=True, slots=True)
class Made:
    """What `embed_source` did.

    Attributes:
        count: Rows with a vector.
        failed: Rows without one; `failed.json` says why.
        sent: Rows that the server was asked for, by this call.
        dimension: Of the vectors; 0 if there are none.
        unchanged: Whether the folder was finished before, and is as it was.
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
    kind: Literal["npy", "parquet"] = "npy",
    dimensions: int | None = None,
    embedder: str = contract.NATIVE,
    concurrency: int = IN_FLIGHT,
    again: bool = False,
    progress: bool = False,
) -> Made:
    """Embeds what is not embedded yet, and writes all of it.

    A row that fails is left out and told in `failed.json`. One that the server refused is not sent
    again until it changes; one that failed for another reason is, by the next call. A server that
    goes away ends the call; what was made until then is kept.

    Args:
        client: Of a running server.
        source: What to embed.
        out: Folder; missing, empty, or made by an earlier call.
        kind: Of the files.
        dimensions: Matryoshka length of the vectors; the profile's full one if None.
        embedder: As in `Client.embed`.
        concurrency: Requests under way at a time.
        again: Whether to forget what an earlier call made.
        progress: Whether to show a progress bar on standard error.

    Raises:
        InvalidInputError: `out` holds something else, or vectors of another profile, length or
            embedder.
        NotReadyError: The server cannot be reached.
        StorageError: `out` cannot be written.
        ImportError: PyArrow is needed, and not there.
    """
    if kind == "parquet":
        from lensemble_corpus import parquet  # noqa: F401  better now than after hours of work
    _check_target(out)
    with Journal(out / WORK) as journal:
        if again:
            journal.clear()
        _check_making(journal.making, dimensions, embedder)
        run = _Run(client, journal, dimensions, embedder, concurrency)
        try:
            return _written(run, source, out, kind, progress)
        except OSError as error:
            raise StorageError(f"cannot write {str(out)!r}: {error}", field="out") from error


class _Run:
    """One pass over a source: rows -> places in the journal, or errors."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        dimensions: int | None,
        embedder: str,
        concurrency: int,
    ) -> None:
        self._client, self.journal = client, journal
        self._dimensions, self._embedder = dimensions, embedder
        self._concurrency = concurrency
        self.sent = 0

    def outcomes(self, source: Source) -> Generator[tuple[Wanted | Refused, int | LensembleError]]:
        """Every row in order, with its vector's place or its error."""
        rows = iter(source)
        while some := list(islice(rows, _AT_A_TIME)):
            known = {
                row.digest: found
                for row in some
                if isinstance(row, Wanted) and (found := self.journal.find(row.digest)) is not None
            }
            new = [row for row in some if isinstance(row, Wanted) and row.digest not in known]
            with closing(self._embedded(new)) as made:
                for row in some:
                    if isinstance(row, Refused):
                        yield row, row.error
                    elif row.digest in known:
                        yield row, known[row.digest]
                    else:
                        yield row, self._kept(row, *next(made))

    def _embedded(self, rows: Sequence[Wanted]) -> Generator[tuple[Result, bool]]:
        """For each row in order the server's result, or why it was not sent; and whether it was."""
        asked: deque[LensembleError | None] = deque()

        def items() -> Iterator[Item]:
            for row in rows:
                try:
                    check_size(row.entry)
                    item = row.entry.item()
                except LensembleError as error:
                    asked.append(error)
                except ValueError as error:  # a zero in a path
                    asked.append(InvalidInputError(str(error)))
                else:
                    asked.append(None)
                    yield item

        with closing(
            self._client.embed_stream(
                items(),
                dimensions=self._dimensions,
                embedder=self._embedder,
                concurrency=self._concurrency,
            )
        ) as results:
            for result in results:
                while (unread := asked.popleft()) is not None:
                    yield unread, False
                self.sent += 1
                yield result, True
        yield from ((unread, False) for unread in asked if unread is not None)

    def _kept(self, row: Wanted, result: Result, was_sent: bool) -> int | LensembleError:
        if isinstance(result, LensembleError):
            if isinstance(result, NotReadyError | NotFoundError) or result.field in _OF_ALL:
                raise result  # the next row would fare no better
            # What cannot be read may be there next time, and its digest cannot tell.
            if was_sent and isinstance(result, InvalidInputError) and _of_the_row(result):
                self.journal.refuse(row.digest, result)
            return result
        made = Making(result.profile, len(result.result), self._dimensions, self._embedder)
        if self.journal.making is None:
            self.journal.begin(made)
        elif made != self.journal.making:
            raise InvalidInputError(
                f"the server makes vectors of {made.dimension} dimensions under profile "
                f"{made.profile}, those of before have {self.journal.making.dimension} under "
                f"{self.journal.making.profile}; they cannot be compared: serve the checkpoint of "
                "before, give another folder, or embed all of it again (--again)",
                field="profile",
            )
        return self.journal.add(row.digest, result.result)


def _written(
    run: _Run, source: Source, out: Path, kind: Literal["npy", "parquet"], progress: bool
) -> Made:
    """Goes through a source and puts the files in their places."""
    places = array("q")
    content = hashlib.sha256(f"{kind} {source.id_field}".encode())
    lines, failures = out / WORK / f"{_ROWS}.part", out / f"{FAILED}.part"
    failed = 0
    with ExitStack() as stack:
        kept = stack.enter_context(lines.open("w", encoding="utf-8"))
        lost = stack.enter_context(failures.open("w", encoding="utf-8"))
        bar = stack.enter_context(
            tqdm(desc="embed", total=source.total, unit="row", disable=not progress)
        )
        outcomes = stack.enter_context(closing(run.outcomes(source)))
        for row, found in outcomes:
            if isinstance(found, LensembleError):
                said = json.dumps(_failure(row, found))
                lost.write(f"{',' if failed else '['}\n{said}")
                failed += 1
            else:
                assert isinstance(row, Wanted)
                said = f'{row.text[:-1]}, "{INDEX_FIELD}": {len(places)}}}'
                kept.write(f"{said}\n")
                places.append(found)
            content.update(f"{found!r} {said}\n".encode())
            bar.update(1)
        lost.write("\n]\n" if failed else "[]\n")
    run.journal.flush()
    making = run.journal.making
    if making is None or not places:
        put(failures, out / FAILED)
        return Made(0, failed, run.sent, 0, False)
    content.update(json.dumps(asdict(making)).encode())
    manifest = Manifest(
        making.profile,
        making.dimension,
        making.asked,
        making.embedder,
        kind,
        len(places),
        failed,
        source.id_field,
        content.hexdigest(),
    )
    unchanged = _is_there(out, manifest)
    if unchanged:
        failures.unlink()
    else:
        _finish(out, manifest, lines, run.journal, places)
    lines.unlink()
    return Made(len(places), failed, run.sent, making.dimension, unchanged)


def _finish(
    out: Path, manifest: Manifest, lines: Path, journal: Journal, places: array[int]
) -> None:
    """Writes the files; while they are being put in their places there is no manifest."""
    vectors = journal.read(places)
    if manifest.kind == "parquet":
        from lensemble_corpus import parquet

        parquet.write(out / f"{PARQUET}.part", lines, vectors, manifest.dimension)
    else:
        _write_npy(out / f"{NPY}.part", vectors, (manifest.count, manifest.dimension))
        with (
            lines.open(encoding="utf-8") as rows,
            (out / f"{METADATA}.part").open("w", encoding="utf-8") as file,
        ):
            for n, line in enumerate(rows):
                file.write(f"{',' if n else '['}\n{line.rstrip()}")
            file.write("\n]\n")
    (out / MANIFEST).unlink(missing_ok=True)
    sync(out)
    for name in (*manifest.files, FAILED):
        put(out / f"{name}.part", out / name)
    for name in {NPY, METADATA, PARQUET} - set(manifest.files):
        (out / name).unlink(missing_ok=True)
    write_whole(out / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")


def _write_npy(path: Path, chunks: Iterator[NDArray[np.float32]], shape: tuple[int, int]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        for chunk in chunks:
            file.write(chunk.astype("<f4", copy=False).tobytes())


def read_rows(folder: Path, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The rows of a finished folder, in the order of their vectors, without these.

    Raises:
        InvalidInputError: They cannot be read.
        ImportError: PyArrow is needed, and not there.
    """
    if manifest.kind == "parquet":
        from lensemble_corpus import parquet

        yield from parquet.metadata(folder / PARQUET)
        return
    path = folder / METADATA
    try:
        said = json.loads(path.read_text("utf-8"))
        if not isinstance(said, list) or not all(isinstance(row, dict) for row in said):
            raise ValueError("expected a list of objects")
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="source") from error
    yield from said


def read_failures(folder: Path) -> list[dict[str, str]]:
    """What `failed.json` says: where, id, path and error of each row without a vector.

    Raises:
        InvalidInputError: It cannot be read.
    """
    path = folder / FAILED
    try:
        said: list[dict[str, str]] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field="out") from error
    return said


def _of_the_row(error: LensembleError) -> bool:
    return error.field.split("[")[0] in ("text", "image", "instruction")


def _failure(row: Wanted | Refused, error: LensembleError) -> dict[str, str]:
    paths = row.entry.images if isinstance(row, Wanted) else ()
    said = {"where": row.where, "id": row.entry.id if isinstance(row, Wanted) else row.id}
    return {**said, "path": ", ".join(map(str, paths)), "error": str(error)}


def _is_there(out: Path, manifest: Manifest) -> bool:
    """Whether that very content is in its place already."""
    try:
        before = Manifest.load(out)
    except InvalidInputError:
        return False
    return before == manifest and all((out / name).is_file() for name in (*before.files, FAILED))


def _check_target(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InvalidInputError(f"{str(out)!r} is not a folder", field="out")
    names = {path.name for path in out.iterdir()}
    if names and not names & {WORK, MANIFEST}:
        raise InvalidInputError(
            f"{str(out)!r} holds something else ({', '.join(sorted(names)[:3])}); give a new "
            "folder",
            field="out",
        )


def _check_making(making: Making | None, dimensions: int | None, embedder: str) -> None:
    if making is not None and (making.asked, making.embedder) != (dimensions, embedder):
        raise InvalidInputError(
            f"the folder has vectors of embedder {making.embedder!r} with dimensions "
            f"{making.asked or 'full'}, asked for are {embedder!r} and {dimensions or 'full'}; "
            "give another folder, or embed all of it again (--again)",
            field="dimensions",
        )
