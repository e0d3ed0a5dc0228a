"""Pictures as data URLs (RFC 2397): `data:image/jpeg;base64,...`.

The media type is ignored, because the format of a picture is recognized from its bytes.
"""

from __future__ import annotations

import binascii

from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError

_SCHEME = b"data:"
_ENCODING = b";base64"


def is_data_url(value: str | bytes) -> bool:
    """Whether a text or an encoded picture begins like a data URL, in upper or lower case."""
    return _as_bytes(value[: len(_SCHEME)]).lower() == _SCHEME


def decode_data_url(url: str | bytes, field: str = "image") -> bytes:
    """Returns the encoded picture that a data URL contains.

    Args:
        url: The data URL; its base64 must be padded and free of other characters.
        field: Name of the picture in error messages.

    Raises:
        InvalidInputError: The URL is not base64, the picture is empty, or it is larger than
            `contract.MAX_IMAGE_BYTES`. The size is checked before decoding.
    """
    header, comma, body = _as_bytes(url).partition(b",")
    size = len(body) * 3 // 4  # base64 has four characters for three bytes
    if size > contract.MAX_IMAGE_BYTES:
        raise InvalidInputError(
            f"{size} bytes; at most {contract.MAX_IMAGE_BYTES}; send a smaller file",
            field=field,
            reason="too_large",
        )
    try:
        if not comma or header[-len(_ENCODING) :].lower() != _ENCODING:
            raise ValueError("no ';base64,'")
        picture = binascii.a2b_base64(body, strict_mode=True)
    except ValueError as error:
        raise InvalidInputError(
            f"cannot read the data URL ({error}); expected data:image/jpeg;base64,...",
            field=field,
            reason="data_url",
        ) from error
    if not picture:
        raise InvalidInputError("0 bytes; expected a picture", field=field, reason="not_a_picture")
    return picture


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
