"""Small files that would cause much work are refused by what they declare, or lose what is slow."""

import struct

import numpy as np
import pytest

from benchmarks.faults.pictures.bombs import HARMLESS_BOMBS, REFUSED_BOMBS, scan_bomb
from benchmarks.faults.pictures.tiff import with_directory
from lensemble.preprocess import decode_picture
from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from lensemble.scheduling.slots import Slots
from lensemble_client import InvalidInputError
from lensemble_contract.errors import OverloadedError
from tests.pictures import encode, textured


@pytest.fixture
def no_decoding(monkeypatch):
    def decode(*_):
        pytest.fail("it was decoded")

    monkeypatch.setattr(decode_picture, "_decode", decode)
    monkeypatch.setattr(decode_picture, "fill_in_child", decode)


@pytest.mark.parametrize("kind", REFUSED_BOMBS)
def test_bomb_is_refused_before_it_is_decoded(kind, no_decoding):
    with pytest.raises(InvalidInputError) as caught:
        open_picture(REFUSED_BOMBS[kind](), "image[1]")
    assert caught.value.reason in ("too_complex", "damaged")
    assert caught.value.field == "image[1]"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", HARMLESS_BOMBS)
def test_picture_is_decoded_without_what_makes_it_slow(kind):
    picture = open_picture(HARMLESS_BOMBS[kind]())
    assert not picture.image.info.keys() & {"exif", "xmp", "icc_profile", "comment", "Comment"}
    assert getattr(picture.image, "n_frames", 1) == 1
    assert set(np.asarray(decode_rgb(picture)).ravel().tolist()) in ({128}, {28})


@pytest.mark.parametrize("place", [0, 1 << 31, 1 << 62, (1 << 64) - 1])
def test_places_outside_the_file_are_damage(place):
    directory = struct.pack("<QHHQQQ", 1, 273, 16, 9, place, 0)
    for data in (
        b"II+\0\x08\0\0\0" + struct.pack("<Q", place),
        b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + directory,
    ):
        with pytest.raises(InvalidInputError, match="a damaged TIFF file"):
            open_picture(data)


@pytest.mark.parametrize("tag", [258, 338, 339, 277, 262, 259, 284])
def test_error_does_not_repeat_a_long_value(tag):
    values = {256: (4, [9]), 257: (4, [9]), 273: (4, [8]), 277: (3, [60_000])}
    with pytest.raises(InvalidInputError) as caught:
        open_picture(with_directory(bytes(99), values | {tag: (3, [60_000] * 60_000)}))
    assert len(str(caught.value)) < 300


def test_ordinary_number_of_scans_is_accepted():
    for progressive in (False, True):
        picture = open_picture(encode(textured(64, 64), "JPEG", progressive=progressive))
        assert picture.file.scans == (10 if progressive else 1)
    assert open_picture(scan_bomb(12, 7900, 7900)).file.scans == 12
    with pytest.raises(InvalidInputError, match="7900x7900 pixels in 13 scans are 811330000 pixel"):
        open_picture(scan_bomb(13, 7900, 7900))


def test_scans_behind_a_thumbnail_are_counted_and_those_inside_are_not():
    thumbnail = encode(textured(64, 64), "JPEG", progressive=True)
    plain = encode(textured(80, 80), "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert open_picture(plain).file.scans == 1
    assert open_picture(plain + thumbnail).file.scans == 1, "behind the end of the first picture"


def large_picture() -> bytes:
    return encode(textured(64, 48), "PNG")


@pytest.fixture
def always_in_a_child(monkeypatch):
    monkeypatch.setattr(decode_picture, "_MAX_PIXEL_SCANS_HERE", 0)


def test_child_decodes_to_the_same_pixels(always_in_a_child):
    expected = np.asarray(textured(64, 48))
    np.testing.assert_array_equal(decode_rgb(open_picture(large_picture())), expected)


def test_child_turns_a_picture(always_in_a_child):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = encode(textured(64, 48), "PNG", exif=exif)
    upright = np.asarray(textured(64, 48))[::-1].swapaxes(0, 1)
    np.testing.assert_array_equal(decode_rgb(open_picture(data), upright=True), upright)


def test_error_of_a_child_is_the_error_of_the_picture(always_in_a_child):
    data = large_picture()
    with pytest.raises(InvalidInputError, match="a damaged PNG file") as caught:
        decode_rgb(open_picture(data[: len(data) // 2]), "image[3]")
    assert (caught.value.field, caught.value.reason) == ("image[3]", "damaged")


def test_long_error_of_a_child_is_cut(always_in_a_child, monkeypatch):
    def fail(picture, field, upright):
        raise InvalidInputError("é" * 5000, reason="damaged")

    monkeypatch.setattr(decode_picture, "_decode", fail)
    with pytest.raises(InvalidInputError, match=r"é{500}$"):
        decode_rgb(open_picture(large_picture()))


def test_decoder_that_does_not_end_is_killed(always_in_a_child, monkeypatch):
    def never_end(*_):
        while True:
            pass

    monkeypatch.setattr(decode_picture, "_decode", never_end)
    monkeypatch.setattr(decode_picture, "_CHILD_CPU_S", 1)
    with pytest.raises(InvalidInputError, match="decoding took more than 1 s") as caught:
        decode_rgb(open_picture(large_picture()), "image[0]")
    assert caught.value.reason == "too_complex"


def test_codecs_that_no_count_bounds_run_in_a_child(monkeypatch):
    """LZMA inside a TIFF, for instance, may ask for any amount of memory."""
    kinds = []
    fill_in_child = decode_picture.fill_in_child
    monkeypatch.setattr(
        decode_picture,
        "fill_in_child",
        lambda fill, size, **limits: kinds.append(size) or fill_in_child(fill, size, **limits),
    )
    for compression in ("jpeg", "lzma", "zstd", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        data = encode(textured(40, 30), "TIFF", compression=compression)
        decode_rgb(open_picture(data))
    assert len(kinds) == 2


def test_only_large_pictures_need_a_slot(always_in_a_child, tmp_path, monkeypatch):
    monkeypatch.setattr(decode_picture, "_LARGE_PIXELS", 64 * 48)
    (tmp_path / "preprocess-1").touch()
    slots = Slots(tmp_path, "preprocess")
    ordinary, large = (open_picture(encode(textured(64, side))) for side in (48, 49))
    with slots.taken("large pictures"):
        assert decode_rgb(ordinary, slots=slots).size == (64, 48)
        with pytest.raises(OverloadedError, match="other large pictures are being worked on"):
            decode_rgb(large, slots=slots)
    assert decode_rgb(large, slots=slots).size == (64, 49)
