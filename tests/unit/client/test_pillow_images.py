"""A Pillow image of any mode reaches the server as the colours that it shows, or is refused."""

import numpy as np
import pytest
from PIL import Image

from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from lensemble_client import InvalidInputError, Item

SIZE = (5, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
RGB, ALPHA, GREY = PIXELS[:, :, :3], PIXELS[:, :, 3:], PIXELS[:, :, :1]
DEEP = np.random.default_rng(1).integers(0, 65_536, (3, 5), np.uint16)


def on_white(colours, alpha):
    alpha = alpha.astype(int)
    return np.rint((colours.astype(int) * alpha + 255 * (255 - alpha)) / 255)


def image(mode, samples):
    """An image with these samples in memory, channel by channel."""
    return Image.frombytes(mode, SIZE, np.ascontiguousarray(samples).tobytes())


def with_transparency(picture, value):
    picture.info["transparency"] = value
    return picture


def palette(mode, entries):
    picture = image("P", GREY % 4)
    picture.putpalette(np.array(entries, np.uint8).tobytes(), mode)
    return picture


ENTRIES = np.array([[10, 20, 30, 255], [200, 0, 0, 128], [0, 250, 9, 0], [1, 1, 1, 7]])
GREYS = GREY.repeat(3, 2)
PREMULTIPLIED = np.dstack((RGB.astype(int) * ALPHA // 255, ALPHA)).astype(np.uint8)
INDICES = GREY[:, :, 0] % 4
SHOWN = {
    "1": (Image.fromarray(GREY[:, :, 0] > 127), (GREYS > 127) * 255),
    "L": (image("L", GREY), GREYS),
    "LA": (image("LA", np.dstack((GREY, ALPHA))), on_white(GREYS, ALPHA)),
    "RGB": (image("RGB", RGB), RGB),
    "RGBA": (image("RGBA", PIXELS), on_white(RGB, ALPHA)),
    "RGBX": (image("RGBX", PIXELS), RGB),
    "RGBa": (image("RGBa", PREMULTIPLIED), RGB * (ALPHA / 255.0) + 255 - ALPHA),
    "CMYK": (image("CMYK", PIXELS), (255.0 - RGB) * (255.0 - ALPHA) / 255),
    "LAB": (Image.new("LAB", SIZE, (128, 128, 128)), np.full((3, 5, 3), 119)),
    "P": (palette("RGB", ENTRIES[:, :3]), ENTRIES[INDICES][:, :, :3]),
    "P with alpha": (
        palette("RGBA", ENTRIES), on_white(ENTRIES[INDICES][:, :, :3], ENTRIES[INDICES][:, :, 3:])
    ),
    "L with a transparent value": (
        with_transparency(image("L", GREY), int(GREY[1, 1, 0])),
        np.where(GREY == GREY[1, 1, 0], 255, GREYS),
    ),
    "RGB with a transparent colour": (
        with_transparency(image("RGB", RGB), tuple(RGB[1, 1].tolist())),
        np.where((RGB == RGB[1, 1]).all(2)[:, :, None], 255, RGB),
    ),
    "I;16": (image("I;16", DEEP.astype("<u2")), (DEEP >> 8)[:, :, None].repeat(3, 2)),
    "I;16L": (image("I;16L", DEEP.astype("<u2")), (DEEP >> 8)[:, :, None].repeat(3, 2)),
    "I;16B": (image("I;16B", DEEP.astype(">u2")), (DEEP >> 8)[:, :, None].repeat(3, 2)),
    "I;16 with a transparent value": (
        with_transparency(image("I;16", DEEP.astype("<u2")), int(DEEP[1, 1])),
        np.where(DEEP == DEEP[1, 1], 255, DEEP >> 8)[:, :, None].repeat(3, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHOWN)
def test_image_shows_the_same_colours_on_the_server(kind):
    picture, expected = SHOWN[kind]
    (encoded,) = Item.of(image=picture).images
    np.testing.assert_allclose(
        np.asarray(decode_rgb(open_picture(encoded))).astype(float), expected, rtol=0, atol=2
    )


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("I", SIZE, 9),
        Image.new("F", SIZE, 0.5),
        with_transparency(image("RGB", RGB), (1, 2, 60_000)),
    ],
    ids=["I", "F", "RGB with a transparent colour of 16 bits"],
)
def test_image_without_a_defined_white_is_refused_by_name(picture):
    message = rf"image\[0\]: a Pillow image of mode '{picture.mode}', in which white is not"
    with pytest.raises(InvalidInputError, match=message):
        Item.of("text", picture)


def test_damaged_image_is_refused(tmp_path):
    path = tmp_path / "half.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as picture, pytest.raises(InvalidInputError, match="cannot be read"):
        Item.of(image=picture)


def test_colour_profile_and_texts_are_not_sent():
    picture = image("RGB", RGB)
    picture.info["icc_profile"] = b"secret" * 100
    (encoded,) = Item.of(image=picture).images
    assert b"iCCP" not in encoded
