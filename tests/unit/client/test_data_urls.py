"""Pictures as data URLs: what is decoded, and what is refused."""

import base64

import pytest

from lensemble_contract import contract
from lensemble_contract.data_urls import decode_data_url, is_data_url
from lensemble_contract.errors import InvalidInputError

ENCODED = base64.b64encode(b"a picture").decode()


@pytest.mark.parametrize("head", ["data:image/png;base64", "DATA:;BASE64", "data:a/b;x=y;base64"])
def test_text_and_bytes_are_decoded_whatever_the_media_type(head):
    url = f"{head},{ENCODED}"
    assert is_data_url(url) and is_data_url(url.encode())
    assert decode_data_url(url) == decode_data_url(url.encode()) == b"a picture"


@pytest.mark.parametrize("value", ["", "dat", "https://a/b.png", b"\xff\xd8\xff", b"\x89PNG"])
def test_other_values_are_not_data_urls(value):
    assert not is_data_url(value)


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png,abc",
        "data:text/plain,hello",
        "data:;base64,@@@@",
        "data:;base64,YQ",  # padding is missing
        "data:;base64,YQ==YQ==",
        "data:;base64,Y Q=",
        "data:;base64,\u00e9\ud800",
    ],
)
def test_error_says_what_was_expected(url):
    with pytest.raises(InvalidInputError, match=r"^image\[1\]: .*expected data:image/jpeg;base64"):
        decode_data_url(url, "image[1]")


def test_empty_picture_is_refused():
    with pytest.raises(InvalidInputError, match="0 bytes; expected a picture"):
        decode_data_url("data:image/png;base64,")


def test_size_is_checked_before_decoding(monkeypatch):
    monkeypatch.setattr(contract, "MAX_IMAGE_BYTES", 9)
    assert decode_data_url(f"data:;base64,{ENCODED}") == b"a picture"
    with pytest.raises(InvalidInputError, match="12 bytes; at most 9"):
        decode_data_url("data:;base64," + "@" * 16)
