"""Changes of an item's document that keep its vector."""

from __future__ import annotations

from typing import Any

# A digest that begins with this was made of what the vector depends on, without the document.
CONTENT_DIGEST = "content:"


def merge_patch(document: Any, patch: Any) -> Any:
    """Applies a JSON merge patch (RFC 7396); neither argument is changed.

    Args:
        document: Any JSON value.
        patch: An object whose fields replace those of the document, where null removes a field and
            objects are merged; or any other value, which replaces the document.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def digest_after_document_change(digest: str) -> str:
    """Returns the digest of an item whose document was changed alone.

    Most digests cover the document, too (`Record.digest`). Such a digest becomes empty, so that
    whoever stores the original item again does not take it for stored already.
    """
    return digest if digest.startswith(CONTENT_DIGEST) else ""
