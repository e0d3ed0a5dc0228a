"""`Qwen3VLEmbedder`: a small class for code that only needs vectors of pictures with context."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lensemble_client.client import Client
from lensemble_client.connection import DEFAULT_URL
from lensemble_client.results import Embedding
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Item, Picture
from lensemble_contract.texts import quoted


class Qwen3VLEmbedder:
    """Embeds pictures with their context through a Lensemble server; a context manager.

    Args:
        url: URL of the server, `grpc://host:port` or `http://host:port`.
        instruction: Replaces the profile's instruction.
        dimensions: Matryoshka length of the vectors; None takes the profile's full length.
        client: Client to use; None makes one from `url`. `close` does not close a given client.
        options: Further arguments of `Client`, such as `timeout_s`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        instruction: str | None = None,
        dimensions: int | None = None,
        client: Client | None = None,
        **options: Any,
    ) -> None:
        self._client = client if client is not None else Client(url, **options)
        self._owned = client is None
        self._instruction, self._dimensions = instruction, dimensions

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the client, unless the caller gave it."""
        if self._owned:
            self._client.close()

    def generate_embedding(
        self, image_path: Picture | None = None, text_context: str | None = None
    ) -> Embedding:
        """Embeds a picture, its context, or both together.

        Args:
            image_path: Path of a picture; encoded bytes and Pillow images are accepted, too.
            text_context: Text that describes the picture.

        Returns:
            The vector (D,), float32, unit length.

        Raises:
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        return self._client.embed(
            text_context, image_path, instruction=self._instruction, dimensions=self._dimensions
        )

    def generate_batch_embeddings(
        self,
        image_paths: Sequence[Picture | None],
        text_contexts: Sequence[str | None] | None = None,
        *,
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Embeds many pictures, several requests at a time.

        Args:
            image_paths: N pictures as in `generate_embedding`; None where there is only a context.
            text_contexts: N contexts; None if there are none.
            progress: Whether to show a progress bar on standard error.

        Returns:
            The vectors (N, D), float32, unit length, in the same order.

        Raises:
            InvalidInputError: The lengths differ, an argument is a single text, or an item is not
                valid; the error names its position. `Client.embed_many` keeps the results of the
                other items.
            LensembleError: Any of the errors in `lensemble_contract.errors`.
        """
        _check_list(image_paths, "image_paths")
        if text_contexts is not None:
            _check_list(text_contexts, "text_contexts")
        contexts = [None] * len(image_paths) if text_contexts is None else text_contexts
        if len(contexts) != len(image_paths):
            raise InvalidInputError(
                f"{len(image_paths)} pictures, {len(contexts)} contexts; expected the same number",
                field="text_contexts",
            )
        items = []
        for n, (picture, text) in enumerate(zip(image_paths, contexts, strict=True)):
            try:
                items.append(Item.of(text, picture, self._instruction))
            except LensembleError as error:
                raise _at_position(error, n) from error
        results = self._client.embed_many(items, dimensions=self._dimensions, progress=progress)
        vectors = []
        for n, result in enumerate(results):
            if isinstance(result, LensembleError):
                raise _at_position(result, n) from result
            vectors.append(result)
        return np.stack(vectors) if vectors else np.empty((0, self._dimensions or 0), np.float32)


def _check_list(values: object, field: str) -> None:
    """Refuses one text in the place of several, which would be taken apart into its letters."""
    if isinstance(values, str | bytes):
        raise InvalidInputError(f"{quoted(values)}; expected a list", field=field)


def _at_position(error: LensembleError, n: int) -> LensembleError:
    """Returns the same error with the position of the item before its field."""
    field = f"[{n}].{error.field}" if error.field else f"[{n}]"
    return type(error)(error.message, field=field)
