"""Paths of requests: decoded exactly, because the id of an item is part of a path."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Scope

from lensemble.gateway.errors import RefusedError

# The rest of such a path is the id of an item, unless the method is POST.
ITEM_PREFIX = "/v1/items/"


class AnyTextConvertor(Convertor[str]):
    """`{id:text}` in the path of a route: any text that is not empty, line breaks included.

    Starlette's `{id:path}` stops before a line break, so `DELETE /v1/items/x%0A` would remove `x`.
    """

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        """The text as it is."""
        return value

    def to_string(self, value: str) -> str:
        """The text as it is."""
        return value


register_url_convertor("text", AnyTextConvertor())


def normalize_path(scope: Scope) -> None:
    """Removes slashes at the end of the path, except those of an item's id.

    Starlette would redirect the caller, to http even behind a proxy with TLS, and a key would be
    sent without encryption.

    Args:
        scope: ASGI scope of a request, which is changed.

    Raises:
        RefusedError: The path is not UTF-8, or it has a line break and is not that of an item.
    """
    try:
        # The server has replaced what is not UTF-8, which may give the id of another item.
        unquote_to_bytes(scope.get("raw_path") or b"").decode()
    except UnicodeDecodeError as error:
        raise RefusedError(
            HTTPStatus.BAD_REQUEST,
            "bad_request",
            f"the path is not UTF-8 ({error.object[error.start : error.end]!r}); encode ids as "
            "UTF-8, then with percent signs",
        ) from error
    path = scope["path"]
    has_id = path.startswith(ITEM_PREFIX) and path != ITEM_PREFIX and scope["method"] != "POST"
    if has_id:
        return
    if "\n" in path:  # the end of a route's pattern also matches before a line break
        raise RefusedError(HTTPStatus.NOT_FOUND, "not_found", "there is no such route")
    scope["path"] = path.rstrip("/") or "/"
