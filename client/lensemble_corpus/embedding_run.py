"""One run over a source, which turns each row into a vector in the journal or into an error."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TypeAlias

from lensemble_client.client import Client
from lensemble_client.results import Embedding, Measured
from lensemble_contract.errors import (
    InvalidInputError,
    LensembleError,
    NotFoundError,
    NotReadyError,
)
from lensemble_contract.items import Item
from lensemble_corpus.journal import Journal, VectorSettings
from lensemble_corpus.source import EmbeddableRow, RefusedRow, Source, check_picture_sizes

# Rows are read in blocks of this size. The journal is searched for a whole block, and only the rows
# that it does not know are sent to the server.
_BLOCK_ROWS = 4096
# A block also ends when the pictures that its rows contain themselves have this size.
_BLOCK_BYTES = 64 * 2**20
# Text that is embedded to see under which profile the server makes vectors.
PROBE_TEXT = "profile"
# If the server reports an error in one of these fields, every other row would fail as well.
_FIELDS_OF_ALL_ROWS = ("dimensions", "embedder")
# If the server reports an error in one of these fields, the content of the row is the cause.
_FIELDS_OF_ONE_ROW = ("text", "image", "instruction")

Result: TypeAlias = Measured[Embedding] | LensembleError


class EmbeddingRun:
    """Embeds those rows of a source that are not in the journal yet.

    Args:
        client: Client of a running server.
        journal: Journal to look rows up in, and to add vectors to.
        dimensions: Matryoshka length of the vectors; None takes the profile's full length.
        embedder: Name of the embedder.
        concurrency: Number of requests that run at the same time.

    Attributes:
        journal: The journal.
        sent: Number of rows that were sent to the server; the text of `check_profile` is none.
    """

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
        self._profile_is_known = False  # whether a vector of this run has shown the profile

    def outcomes(
        self, source: Source
    ) -> Generator[tuple[EmbeddableRow | RefusedRow, int | LensembleError]]:
        """Yields every row in order, with its error or its vector's place in the journal.

        Raises:
            LensembleError: Every further row would fail, too, for instance because the server
                cannot be reached.
        """
        for block in blocks_of(source):
            known = {
                row.digest: outcome
                for row in block
                if isinstance(row, EmbeddableRow)
                and (outcome := self.journal.find(row.digest)) is not None
            }
            unknown = [
                row for row in block if isinstance(row, EmbeddableRow) and row.digest not in known
            ]
            with closing(self._embed(unknown)) as results:
                for row in block:
                    if isinstance(row, RefusedRow):
                        yield row, row.error
                    elif row.digest in known:
                        yield row, known[row.digest]
                    else:
                        yield row, self._record(row, *next(results))

    def _embed(self, rows: Sequence[EmbeddableRow]) -> Generator[tuple[Result, bool]]:
        """Yields the result of each row in order, and whether the row was sent to the server."""
        # One entry for each row that the client has read and whose result has not been yielded:
        # None if the row was sent, or the error because of which it was not sent.
        send_errors: deque[LensembleError | None] = deque()

        def items() -> Iterator[Item]:
            for row in rows:
                try:
                    check_picture_sizes(row.entry)
                    item = row.entry.item()
                except LensembleError as error:
                    send_errors.append(error)
                except ValueError as error:  # a null character in a path
                    send_errors.append(InvalidInputError(str(error)))
                else:
                    send_errors.append(None)
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
                while (error := send_errors.popleft()) is not None:
                    yield error, False
                self.sent += 1
                yield result, True
        yield from ((error, False) for error in send_errors if error is not None)

    def _record(self, row: EmbeddableRow, result: Result, was_sent: bool) -> int | LensembleError:
        """Adds a result to the journal; returns the vector's place, or the error of the row."""
        if isinstance(result, LensembleError):
            if isinstance(result, NotReadyError | NotFoundError) or (
                result.field in _FIELDS_OF_ALL_ROWS
            ):
                raise result
            # The journal keeps an error only if the server refused the content of the row. A file
            # that cannot be read now may be readable next time, and the digest would not show that.
            content_is_cause = result.field.split("[")[0] in _FIELDS_OF_ONE_ROW
            if was_sent and isinstance(result, InvalidInputError) and content_is_cause:
                self.journal.refuse(row.digest, result)
            return result
        settings = self._settings_of(result)
        if self.journal.settings is None:
            self.journal.begin(settings)
        return self.journal.add(row.digest, result.result)

    def check_profile(self) -> None:
        """Checks that the server would make vectors that can be compared with those of the journal.

        If no row was embedded, because all vectors are in the journal, it embeds a short text.

        Raises:
            InvalidInputError: The server has another profile, or refuses the dimensions.
            LensembleError: The server cannot be asked.
        """
        if self._profile_is_known or self.journal.settings is None:
            return
        (result,) = self._client.embed_stream(
            [Item(PROBE_TEXT)], dimensions=self._dimensions, embedder=self._embedder
        )
        if isinstance(result, LensembleError):
            raise result
        self._settings_of(result)

    def _settings_of(self, result: Measured[Embedding]) -> VectorSettings:
        """The settings of a vector that the server has made; they must be those of the journal."""
        settings = VectorSettings(
            result.profile, len(result.result), self._dimensions, self._embedder
        )
        self._profile_is_known = True
        before = self.journal.settings
        if before is not None and before != settings:
            raise _incomparable(before, settings)
        return settings


def blocks_of(
    rows: Iterable[EmbeddableRow | RefusedRow],
) -> Iterator[list[EmbeddableRow | RefusedRow]]:
    """Joins rows to blocks, which memory holds one at a time."""
    block: list[EmbeddableRow | RefusedRow] = []
    size = 0
    for row in rows:
        block.append(row)
        if isinstance(row, EmbeddableRow):
            size += sum(map(len, row.entry.encoded))
        if len(block) >= _BLOCK_ROWS or size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _incomparable(before: VectorSettings, now: VectorSettings) -> InvalidInputError:
    return InvalidInputError(
        f"the server makes vectors of {now.dimension} dimensions under profile {now.profile}, but "
        f"the folder has vectors of {before.dimension} dimensions under profile {before.profile}, "
        "and they cannot be compared: serve the earlier checkpoint, give another folder, or embed "
        "all rows again (--again)",
        field="profile",
    )
