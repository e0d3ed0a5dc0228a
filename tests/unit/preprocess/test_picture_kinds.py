"""Every kind of picture is decoded to the right colours, or refused by name."""

import numpy as np
import pytest

from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from lensemble_client import InvalidInputError
from tests.unit.preprocess.picture_cases import DECODED, REFUSED

# Levels by which rounding may differ: alpha is multiplied and divided, YCbCr and CMYK are computed.
TOLERANCE = 2


def decode(data: bytes) -> np.ndarray:
    return np.asarray(decode_rgb(open_picture(data))).astype(int)


@pytest.mark.parametrize(
    ("data", "expected"), [case[1:] for case in DECODED], ids=[case[0] for case in DECODED]
)
def test_picture_is_decoded_to_the_colours_that_it_means(data, expected):
    actual = decode(data)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("data", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_picture_with_other_pixels_is_refused_by_name(data, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        decode(data)
    assert caught.value.reason == "mode"
    assert "save the picture as PNG or JPEG" in str(caught.value)
