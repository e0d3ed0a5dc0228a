import base64

import numpy as np
import pytest
from PIL import Image

from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from lensemble_client import InvalidInputError
from lensemble_contract import contract
from tests.pictures import encode, png_header, textured


def rgb(data: bytes) -> np.ndarray:
    return np.asarray(decode_rgb(open_picture(data)))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_formats_decode_to_the_original_pixels(kind):
    picture = textured(64, 48).quantize(200) if kind == "GIF" else textured(64, 48)
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(rgb(encode(picture, kind, **options)), expected)


def test_jpeg_decodes_close_to_the_original():
    picture = textured(64, 64)
    difference = rgb(encode(picture, "JPEG", quality=95)).astype(int) - np.asarray(picture)
    assert np.abs(difference).mean() < 10


def test_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert rgb(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_composited_on_white(mode):
    if mode == "P":
        picture = Image.new("P", (32, 32), 1)
        picture.putpalette([0, 0, 0, 200, 0, 0])
        data = encode(picture, "PNG", transparency=1)
    else:
        picture = Image.new(mode, (32, 32), (0,) * len(mode))
        data = encode(picture)
    assert rgb(data)[5, 5].tolist() == [255, 255, 255]


def test_half_transparent_black_becomes_grey():
    value = rgb(encode(Image.new("RGBA", (32, 32), (0, 0, 0, 128))))[0, 0]
    assert value.tolist() == [127, 127, 127]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("L", 77, [77] * 3), ("1", 1, [255] * 3), ("CMYK", (255, 0, 0, 0), [0, 255, 255])],
)
def test_other_modes_become_rgb(mode, colour, expected):
    data = encode(Image.new(mode, (32, 32), colour), "TIFF")
    assert rgb(data)[3, 3].tolist() == expected


def test_sixteen_bit_grey_keeps_its_range():
    levels = np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(32, axis=0)
    values = rgb(encode(Image.fromarray(levels)))
    np.testing.assert_array_equal(values[0, :, 0], levels[0] >> 8)


def test_pixels_without_a_defined_white_are_refused():
    data = encode(Image.fromarray(np.ones((32, 32), np.float32)), "TIFF")
    with pytest.raises(InvalidInputError, match="32 bits"):
        rgb(data)


def test_exif_orientation_is_ignored_as_in_the_reference():
    picture = textured(64, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees
    assert rgb(encode(picture, "JPEG", exif=exif)).shape == (32, 64, 3)


def test_data_url_decodes_to_the_picture_inside():
    data = encode(textured(40, 40))
    url = b"data:image/png;base64," + base64.b64encode(data)
    np.testing.assert_array_equal(rgb(url), rgb(data))


@pytest.mark.parametrize("url", [b"data:image/png,abc", b"data:;base64,@@@@", b"data:"])
def test_bad_data_url_error_says_what_was_expected(url):
    with pytest.raises(InvalidInputError, match="expected data:image/jpeg;base64"):
        open_picture(url)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"%PDF-1.4", b"\x00" * 100])
def test_other_bytes_are_refused(data):
    with pytest.raises(InvalidInputError, match="not a picture that can be read"):
        open_picture(data, "image[2]")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((30_000, 30_000), "pixels"),
        ((8_001, 8_000), "64008000 pixels; at most 64000000"),
        ((1, 20_000), "1x20000 is too thin"),
        ((402, 2), "402x2 is too thin"),
    ],
)
def test_limits_are_checked_before_decoding(size, message):
    with pytest.raises(InvalidInputError, match=message):
        open_picture(png_header(*size))


def test_picture_at_the_size_limit_is_accepted():
    assert open_picture(png_header(8_000, 8_000)).size == (8_000, 8_000)
    assert open_picture(png_header(400, 2)).size == (400, 2)


def test_too_many_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(contract, "MAX_IMAGE_BYTES", 100)
    for data in (b"x" * 101, b"data:image/png;base64," + b"A" * 140):
        with pytest.raises(InvalidInputError, match="bytes; at most 100"):
            open_picture(data)
