"""Pictures as callers give them: every usual form works, every other one is refused by name."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lensemble_client import InvalidInputError, Item
from lensemble_contract.items import to_rows
from tests.pictures import encode, textured

PICTURE = textured(20, 10)
ENCODED = encode(PICTURE)


def decoded(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)))


@pytest.mark.parametrize(
    "picture",
    [
        ENCODED,
        bytearray(ENCODED),
        memoryview(ENCODED),
        io.BytesIO(ENCODED),
        f"data:image/png;base64,{base64.b64encode(ENCODED).decode()}",
    ],
    ids=lambda picture: type(picture).__name__,
)
@pytest.mark.parametrize("several", [False, True])
def test_encoded_pictures_are_sent_as_they_are(picture, several):
    if isinstance(picture, io.BytesIO):
        picture.seek(0)
    assert Item.of(image=[picture] if several else picture).images == (ENCODED,)


@pytest.mark.parametrize("shape", [(10, 20), (10, 20, 3), (10, 20, 4)])
def test_array_of_pixels_is_a_picture(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for array in (pixels, np.asfortranarray(pixels)):
        (encoded,) = Item.of(image=array).images
        assert np.array_equal(decoded(encoded), pixels)


def test_several_pictures_may_be_a_list_a_tuple_or_a_generator(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(ENCODED)
    pictures = [PICTURE, path, str(path)]
    for several in (pictures, tuple(pictures), (picture for picture in pictures)):
        assert Item.of(image=several).images == (ENCODED,) * 3
    with path.open("rb") as opened:
        assert Item.of(image=opened).images == (ENCODED,)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([], "image: it has no picture; expected at least one, or None"),
        ((), "image: it has no picture"),
        (iter(()), "image: it has no picture"),
        ("", r"image\[0\]: cannot read ''"),
        (b"", r"image\[0\]: 0 bytes"),
        (bytearray(), r"image\[0\]: 0 bytes"),
        (io.BytesIO(), r"image\[0\]: 0 bytes"),
        (io.StringIO("x"), r"image\[0\]: the file gave str; expected bytes"),
        ({"a.jpg": 1}, "image: it is of type dict; expected encoded bytes, a path"),
        ({"a.jpg"}, "image: it is of type set; expected"),
        (12, "image: it is of type int; expected"),
        ([ENCODED, None], r"image\[1\]: it is of type NoneType; expected"),
        ([ENCODED, 7], r"image\[1\]: it is of type int; expected"),
        ([[ENCODED]], r"image\[0\]: it is of type list; expected"),
        (np.zeros((4, 4, 3)), r"array of float64 and shape \(4, 4, 3\); expected uint8 of shape"),
        (np.zeros((3, 9, 8), np.uint8), r"array of uint8 and shape \(3, 9, 8\); expected uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), "expected uint8 of shape"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\) has no pixels"),
        ("a\0b.jpg", r"cannot read 'a\\x00b.jpg': embedded null byte"),
        ("https://example.org/a.jpg", r"image\[0\]: 'https://example.org/a.jpg' is a URL"),
        ("data:image/png;base64,@@", r"image\[0\]: cannot read the data URL"),
    ],
)
@pytest.mark.parametrize("text", [None, "a text"])
def test_what_is_no_picture_is_refused_by_name(image, message, text):
    """Also beside a text: an empty list must not silently become an item of a text alone."""
    if isinstance(image, io.IOBase):
        image.seek(0)
    with pytest.raises(InvalidInputError, match=message):
        Item.of(text, image)


@pytest.mark.parametrize("head", ["data:image/png;base64,", "  DATA:image/svg+xml;BASE64,"])
def test_picture_that_was_sent_as_a_text_is_refused(head):
    """Otherwise its letters would be embedded."""
    with pytest.raises(InvalidInputError, match=r"text: .* is a data URL, .*; send it as a pic"):
        Item.of(f"{head}iVBORw0KGgo=")
    with pytest.raises(InvalidInputError, match="is a data URL, whose letters would be embedded"):
        to_rows([Item(f"{head}iVBORw0KGgo=")])


@pytest.mark.parametrize(
    "text", ["data: image/png", "the data:image/png;base64, prefix", "data:,x"]
)
def test_text_about_data_urls_is_a_text(text):
    assert Item.of(text).text == text


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item(12), "text: 12; expected a string"),
        (Item("x", instruction=b"x"), "instruction: a value of type bytes; expected a string"),
        (Item(images=b"x"), "image: it is of type bytes; expected a tuple of encoded pictures"),
        (Item(images=("a.jpg",)), r"image\[0\]: it is of type str; expected encoded bytes"),
    ],
)
def test_items_of_wrong_types_are_refused(item, message):
    with pytest.raises(InvalidInputError, match=message):
        to_rows([item])
