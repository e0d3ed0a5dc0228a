"""The size at which the model sees a picture is the one that qwen-vl-utils computes."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qwen_vl_utils.vision_process import smart_resize as reference_smart_resize

from lensemble.preprocess.patches import smart_resize
from lensemble.profile import ImageProfile
from lensemble_contract.errors import InvalidInputError

HALF = (0.5, 0.5, 0.5)
SIDES = st.one_of(st.integers(1, 300), st.integers(1, 12_000))


@settings(max_examples=1000, deadline=None)
@example(16, 1800, (4096, 16_384))
@example(1, 65, (4096, 16_384))
@given(SIDES, SIDES, st.sampled_from([(4096, 1_843_200), (65_536, 1_843_200), (4096, 16_384)]))
def test_size_is_that_of_the_reference(height, width, limits):
    if max(height, width) > 200 * min(height, width):
        return  # refused before, and by the reference
    expected = reference_smart_resize(height, width, 32, *limits)
    profile = ImageProfile(*limits, 16, 2, HALF, HALF)
    if 0 in expected:  # the reference then fails to resize
        with pytest.raises(InvalidInputError, match="too thin"):
            smart_resize(height, width, profile)
    else:
        assert smart_resize(height, width, profile) == expected
