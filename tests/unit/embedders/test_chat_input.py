"""Pictures as a chat model gets them."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lensemble.embedders.chat_input import LONGEST_SIDE, to_chat_input
from lensemble_client import InvalidInputError, Item
from tests.fake_chat_server import colour_of, plain
from tests.pictures import encode, textured


def test_pictures_become_upright_and_small_and_lose_their_metadata():
    picture = Image.new("RGB", (2000, 1000), (200, 30, 30))
    picture.paste((30, 30, 200), (0, 0, 1000, 1000))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated: the left of the stored pixels is at the top
    exif[0x010E] = "where I live"
    data = encode(picture, "JPEG", exif=exif.tobytes())
    (jpeg,) = to_chat_input(Item(images=(data,))).jpegs
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.size == (LONGEST_SIDE // 2, LONGEST_SIDE)
    assert not picture.getexif()
    assert b"where I live" in data
    assert b"where I live" not in jpeg
    halves = np.split(np.asarray(picture), 2)
    assert [colour_of(encode(Image.fromarray(half))) for half in halves] == ["blue", "red"]


def test_bad_pictures_and_instructions_are_refused():
    with pytest.raises(InvalidInputError, match=r"image\[1\]: not a picture"):
        to_chat_input(Item(images=(encode(textured(8, 8)), b"x")))
    with pytest.raises(InvalidInputError, match="instruction: the embedder 'hybrid' takes none"):
        to_chat_input(Item("a", instruction="find"))


def test_data_urls_are_decoded():
    url = b"data:image/png;base64," + base64.b64encode(encode(plain("blue")))
    assert colour_of(to_chat_input(Item(images=(url,))).jpegs[0]) == "blue"
