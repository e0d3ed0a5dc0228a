import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from lensemble.preprocess import patches
from lensemble.profile import ImageProfile
from lensemble_client import InvalidInputError
from tests.pictures import encode, textured

HALF = (0.5, 0.5, 0.5)
PROFILE = ImageProfile(4096, 1_843_200, 16, 2, HALF, HALF)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_truncated_picture_is_refused(kind):
    data = encode(textured(200, 200), kind)
    with pytest.raises(InvalidInputError, match=r"image\[0\]"):
        patches.picture_to_patches(data[: len(data) // 2], PROFILE, "image[0]")


SMALL = ImageProfile(4096, 65_536, 16, 2, HALF, HALF)


@pytest.mark.parametrize(
    ("size", "decoded"),
    # The model sees 288x224.
    [((1600, 1200), (400, 300)), ((1000, 750), (500, 375)), ((500, 375), (500, 375))],
)
def test_scaled_decoding_keeps_at_least_the_size_that_the_model_sees(size, decoded, monkeypatch):
    data = encode(textured(*size), "JPEG")
    full, grid = patches.picture_to_patches(data, SMALL)
    decoded_sizes, resize = [], patches.resize
    monkeypatch.setattr(
        patches, "resize", lambda rgb, *size: decoded_sizes.append(rgb.size) or resize(rgb, *size)
    )
    scaled, same_grid = patches.picture_to_patches(data, SMALL, scaled=True)
    assert decoded_sizes == [decoded]
    assert same_grid == grid
    assert np.abs(full.astype(int) - scaled).mean() < 2


def test_scaled_decoding_changes_only_jpeg():
    data = encode(textured(1000, 750), "PNG")
    full, _ = patches.picture_to_patches(data, SMALL)
    assert (patches.picture_to_patches(data, SMALL, scaled=True)[0] == full).all()


@pytest.mark.parametrize("size", [(16, 1800), (1800, 16), (100, 20_000)])
def test_picture_that_becomes_too_thin_is_refused_as_the_reference_fails(size):
    height, width = size
    profile = ImageProfile(1, 16_384, 16, 2, HALF, HALF)
    with pytest.raises(InvalidInputError, match="is too thin: reduced to the profile's 16384 pixe"):
        patches.smart_resize(height, width, profile, "image[0]")


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([16_384, 65_536, 1_843_200]))
def test_no_reduced_picture_exceeds_the_profile(height, width, max_pixels):
    """A picture that is enlarged may: there, too, the sizes are the reference's."""
    assume(height * width > max_pixels)
    profile = ImageProfile(4096, max_pixels, 16, 2, HALF, HALF)
    try:
        new_height, new_width = patches.smart_resize(height, width, profile)
    except InvalidInputError:
        return
    assert 0 < new_height * new_width <= max_pixels
    assert new_height % 32 == new_width % 32 == 0


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
def test_resize_does_the_width_before_the_height(size, target):
    """Pillow up to 12 and torchvision do so; Pillow 13 swaps the order for some sizes."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    wide = noise.resize((target[0], size[1]), Image.Resampling.BICUBIC)
    expected = np.asarray(wide.resize(target, Image.Resampling.BICUBIC)).astype(int)
    actual = patches.resize(noise, target[1], target[0]).permute(1, 2, 0).numpy()
    assert np.abs(actual - expected).max() <= 2
    assert np.abs(actual - expected).mean() < 0.02


def test_patch_rows_are_in_token_order():
    # The red channel of each patch holds the patch's number, counted row by row.
    numbers = np.arange(4 * 6).reshape(4, 6)
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[..., 0] = numbers.repeat(16, 0).repeat(16, 1)
    rows, grid = patches.cut_patches(patches.resize(Image.fromarray(pixels), 64, 96), PROFILE)
    assert grid == (1, 4, 6)
    assert rows.shape == (24, 768)
    # The 2x2 patches of one token are next to each other.
    assert rows[:, 0].tolist() == [
        *[0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11],
        *[12, 13, 18, 19, 14, 15, 20, 21, 16, 17, 22, 23],
    ]
    assert (rows[:, :256] == rows[:, :1]).all(), "the red values come first in a row"
    assert not rows[:, 256:].any()
