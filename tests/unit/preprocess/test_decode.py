import base64
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lensemble.preprocess import decode
from lensemble.profile import ImageProfile
from lensemble_client import InvalidInputError
from lensemble_contract import contract
from tests.pictures import encode, textured

HALF = (0.5, 0.5, 0.5)
PROFILE = ImageProfile(4096, 1_843_200, 16, 2, HALF, HALF)


def rgb(data: bytes) -> np.ndarray:
    return np.asarray(decode.to_rgb(decode.open_image(data)))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_formats_give_the_very_pixels(kind):
    picture = textured(64, 48).quantize(200) if kind == "GIF" else textured(64, 48)
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(rgb(encode(picture, kind, **options)), expected)


def test_jpeg_is_close():
    picture = textured(64, 64)
    difference = rgb(encode(picture, "JPEG", quality=95)).astype(int) - np.asarray(picture)
    assert np.abs(difference).mean() < 10


def test_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert rgb(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode):
    if mode == "P":
        picture = Image.new("P", (32, 32), 1)
        picture.putpalette([0, 0, 0, 200, 0, 0])
        data = encode(picture, "PNG", transparency=1)
    else:
        picture = Image.new(mode, (32, 32), (0,) * len(mode))
        data = encode(picture)
    assert rgb(data)[5, 5].tolist() == [255, 255, 255]


def test_half_transparent_black_is_grey():
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
    with pytest.raises(InvalidInputError, match="32-bit"):
        rgb(data)


def test_exif_orientation_is_ignored_as_in_the_reference():
    picture = textured(64, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert rgb(encode(picture, "JPEG", exif=exif)).shape == (32, 64, 3)


def test_data_url_is_the_picture_it_holds():
    data = encode(textured(40, 40))
    url = b"data:image/png;base64," + base64.b64encode(data)
    np.testing.assert_array_equal(rgb(url), rgb(data))


@pytest.mark.parametrize("url", [b"data:image/png,abc", b"data:;base64,@@@@", b"data:"])
def test_bad_data_url_says_what_was_expected(url):
    with pytest.raises(InvalidInputError, match="expected data:image/jpeg;base64"):
        decode.open_image(url)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"%PDF-1.4", b"\x00" * 100])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(InvalidInputError, match="not a picture that can be read"):
        decode.open_image(data, "image[2]")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_truncated_picture_is_refused(kind):
    data = encode(textured(200, 200), kind)
    with pytest.raises(InvalidInputError, match=r"image\[0\]"):
        decode.load_image(data[: len(data) // 2], PROFILE, "image[0]")


SMALL = ImageProfile(4096, 65_536, 16, 2, HALF, HALF)


@pytest.mark.parametrize(
    ("size", "decoded"),
    # The model sees 288x224.
    [((1600, 1200), (400, 300)), ((1000, 750), (500, 375)), ((500, 375), (500, 375))],
)
def test_scaled_decoding_never_goes_below_what_the_model_sees(size, decoded, monkeypatch):
    data = encode(textured(*size), "JPEG")
    full, grid = decode.load_image(data, SMALL)
    loaded, resize = [], decode.resize
    monkeypatch.setattr(
        decode, "resize", lambda rgb, *wanted: loaded.append(rgb.size) or resize(rgb, *wanted)
    )
    scaled, same_grid = decode.load_image(data, SMALL, scaled=True)
    assert loaded == [decoded]
    assert same_grid == grid
    assert np.abs(full.astype(int) - scaled).mean() < 2


def test_scaled_decoding_is_for_jpeg_alone():
    data = encode(textured(1000, 750), "PNG")
    full, _ = decode.load_image(data, SMALL)
    assert (decode.load_image(data, SMALL, scaled=True)[0] == full).all()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and has no pixels: it cannot be decoded."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((30_000, 30_000), "pixels"),
        ((8_001, 8_000), "64008000 pixels; at most 64000000"),
        ((1, 20_000), "1x20000 is too thin"),
        ((402, 2), "402x2 is too thin"),
    ],
)
def test_limits_hold_before_anything_is_decoded(size, reason):
    with pytest.raises(InvalidInputError, match=reason):
        decode.open_image(png_header(*size))


def test_size_at_the_limit_passes():
    assert decode.open_image(png_header(8_000, 8_000)).size == (8_000, 8_000)
    assert decode.open_image(png_header(400, 2)).size == (400, 2)


def test_too_many_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(contract, "MAX_IMAGE_BYTES", 100)
    for data in (b"x" * 101, b"data:image/png;base64," + b"A" * 140):
        with pytest.raises(InvalidInputError, match="bytes; at most 100"):
            decode.open_image(data)


def test_thin_reduced_picture_keeps_one_multiple_per_side():
    height, width = decode.smart_resize(100, 20_000, ImageProfile(1, 40_000, 16, 2, HALF, HALF))
    assert height == 32
    assert width % 32 == 0


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((451, 300), (448, 288)),
        ((220, 100), (224, 96)),
        ((100, 220), (96, 224)),
        ((600, 400), (384, 256)),
        ((500, 1500), (448, 1184)),
        ((20, 13), (96, 64)),
    ],
)
def test_resize_goes_across_first_then_down(size, target):
    """As Pillow to 12 and torchvision do; Pillow 13 turns the two around for some sizes."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    across = noise.resize((target[0], size[1]), Image.Resampling.BICUBIC)
    expected = np.asarray(across.resize(target, Image.Resampling.BICUBIC)).astype(int)
    found = decode.resize(noise, target[1], target[0]).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - expected).mean() < 0.02


def test_patch_rows_stand_in_the_order_of_the_tokens():
    # Each patch is filled with its own number, row by row, in the red channel.
    numbers = np.arange(4 * 6).reshape(4, 6)
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[..., 0] = numbers.repeat(16, 0).repeat(16, 1)
    rows, grid = decode.patch_rows(decode.resize(Image.fromarray(pixels), 64, 96), PROFILE)
    assert grid == (1, 4, 6)
    assert rows.shape == (24, 768)
    # 2x2 patches of one token stand next to each other.
    assert rows[:, 0].tolist() == [
        *[0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11],
        *[12, 13, 18, 19, 14, 15, 20, 21, 16, 17, 22, 23],
    ]
    assert (rows[:, :256] == rows[:, :1]).all(), "a row is red first"
    assert not rows[:, 256:].any()
