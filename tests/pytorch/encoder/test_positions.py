import numpy as np
import pytest
import torch

from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.positions import mrope_positions
from tests.unit.encoder.items import mixed

SPEC = InputSpec(vocab_size=100, image_token_id=99, merge_size=2, num_grid_per_side=48)


def test_positions_of_a_small_item():
    # Two words, a picture of 2x3 tokens, one word.
    positions = mrope_positions(mixed(2, (4, 6), 1), SPEC)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]


@pytest.mark.parametrize(
    "parts",
    [(7,), (3, (2, 2), 4), ((8, 2), 1), (5, (2, 12), 2, (6, 4), 3, (2, 2), 9), (1, (10, 10))],
)
def test_positions_equal_transformers(pipeline, parts):
    model = pipeline.encoder.model
    features = mixed(*parts)
    ids = torch.from_numpy(features.input_ids.astype(np.int64))[None]
    expected, _ = model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == 99).int(),
        image_grid_thw=torch.from_numpy(features.image_grid_thw.astype(np.int64)),
    )
    np.testing.assert_array_equal(mrope_positions(features, SPEC), expected[:, 0].numpy())
