"""Pictures as data URLs (RFC 2397): `data:image/jpeg;base64,...`.

The media type is ignored, because the format of a picture is recognized from its bytes.
"""

from __future__ import annotations

import binascii
import re

from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError

_SCHEME = b"data:"
_ENCODING = b";base64"
# A data URL in base64 at the beginning of a text. The first letters of the data tell it from a text
# about data URLs.
_DATA_URL = re.compile(r"\s*data:[^,\s]{0,128};base64,\s*[A-Za-z0-9+/_-]{8}", re.IGNORECASE)
# Characters of base64 that are decoded at once, in about 2 ms; a multiple of four.
_STEP = 1024 * 1024


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
    comma = url.find(",") if isinstance(url, str) else url.find(b",")
    # Base64 has four characters for three bytes; the last four may have up to two of padding.
    size = (len(url) - comma - 1) * 3 // 4 - _as_bytes(url[-2:]).count(b"=")
    if size > contract.MAX_IMAGE_BYTES:
        raise InvalidInputError(
            f"{size} bytes; at most {contract.MAX_IMAGE_BYTES}; send a smaller file",
            field=field,
            reason="too_large",
        )
    try:
        header = _as_bytes(url[max(0, comma - len(_ENCODING)) : max(0, comma)])
        if header.lower() != _ENCODING:
            raise ValueError("no ';base64,'")
        picture = _decode_base64(url, comma + 1)
    except ValueError as error:
        raise InvalidInputError(
            f"cannot read the data URL ({error}); expected data:image/jpeg;base64,...",
            field=field,
            reason="data_url",
        ) from error
    if not picture:
        raise InvalidInputError("0 bytes; expected a picture", field=field, reason="not_a_picture")
    return picture


def check_no_data_url(text: str, field: str) -> None:
    """Refuses a text that is a data URL: as a text, its letters would be embedded.

    Args:
        text: Text of an item.
        field: Name of the text in error messages.

    Raises:
        InvalidInputError: The text begins with a data URL in base64.
    """
    if _DATA_URL.match(text):
        raise InvalidInputError(
            f"{text.lstrip()[:30]!r}... is a data URL, whose letters would be embedded as words; "
            "send it as a picture (`image`, or a content part `image_url`)",
            field=field,
        )


def _decode_base64(url: str | bytes, start: int) -> bytes:
    """Decodes what follows `start`, in steps, between which other threads run.

    Raises:
        ValueError: It is not base64.
    """
    steps = []
    for position in range(start, len(url), _STEP):
        encoded = _as_bytes(url[position : position + _STEP])
        if position + _STEP < len(url) and b"=" in encoded:
            raise ValueError("Excess data after padding")
        steps.append(binascii.a2b_base64(encoded, strict_mode=True))
    return b"".join(steps)


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
