"""The sources of an answer: hits with their pictures, for the chat server and for the caller."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensemble.gateway.routes.search import hit_object
from lensemble.gateway.settings import GatewaySettings
from lensemble_client.results import Hit
from lensemble_contract import contract

# Pictures for one answer; each may have 20 MiB.
MAX_PICTURES = contract.MAX_IMAGES_PER_ITEM

# First bytes of an encoded picture -> subtype of its media type.
_SUBTYPES = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}


@dataclass(frozen=True, slots=True)
class RagSource:
    """A hit that the chat server may cite.

    Attributes:
        number: the number by which it is cited, from 1.
        hit: the hit.
        picture: encoded picture for the chat server; None sends the document only.
    """

    number: int
    hit: Hit
    picture: bytes | None

    def as_object(self) -> dict[str, Any]:
        """The source as a JSON object for the caller."""
        return {
            "number": self.number,
            **hit_object(self.hit),
            "picture": self.picture is not None,
        }

    def content_parts(self) -> list[dict[str, Any]]:
        """The source as content parts of a message for the chat server."""
        document = json.dumps(self.hit.document, ensure_ascii=False)
        text = {"type": "text", "text": f"[{self.number}] {self.hit.id}: {document}"}
        return [text] if self.picture is None else [text, picture_part(self.picture)]


def read_picture(path: object, folder: Path | None) -> bytes | None:
    """The picture that a document names.

    Args:
        path: value of the document's picture field: a path relative to the folder.
        folder: folder of the corpus's pictures; None reads no pictures.

    Returns:
        Encoded bytes; None if the value is not a path, leads out of the folder, or leads to a file
        that is missing, unreadable or too large.
    """
    if folder is None or not isinstance(path, str) or not path:
        return None
    try:
        root = folder.resolve()
        file = (root / path).resolve()
        if not file.is_relative_to(root) or file.stat().st_size > contract.MAX_IMAGE_BYTES:
            return None
        return file.read_bytes()
    except (OSError, ValueError):
        return None


def read_pictures(hits: Sequence[Hit], settings: GatewaySettings) -> list[bytes | None]:
    """The pictures that the documents of hits name, for the first `MAX_PICTURES` of them.

    Args:
        hits: the hits, nearest first.
        settings: settings of the gateway.

    Returns:
        For each hit the encoded picture; None as for `read_picture`, and for hits after those.
    """
    paths = [hit.document.get(settings.picture_field) for hit in hits]
    return [
        read_picture(path, settings.pictures) if n < MAX_PICTURES else None
        for n, path in enumerate(paths)
    ]


def picture_part(picture: bytes) -> dict[str, Any]:
    """A picture as a content part with a data URL."""
    subtype = next(
        (subtype for start, subtype in _SUBTYPES.items() if picture.startswith(start)), "jpeg"
    )
    url = f"data:image/{subtype};base64,{base64.b64encode(picture).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
