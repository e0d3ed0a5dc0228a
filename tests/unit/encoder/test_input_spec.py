import pytest

from lensemble.encoder.input_spec import InputSpec, check_features
from lensemble_client import InvalidInputError
from tests.unit.encoder.items import mixed

SPEC = InputSpec(vocab_size=100, image_token_id=99, merge_size=2, num_grid_per_side=48)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.input_ids.__setitem__(0, 100), "expected 0 to 99"),
        (lambda f: f.input_ids.__setitem__(0, -7), "expected 0 to 99"),
        (lambda f: f.input_ids.__setitem__(0, 99), "the pictures take"),
        (lambda f: f.image_grid_thw.__setitem__((0, 1), 3), "multiples of 2"),
        (lambda f: f.image_grid_thw.__setitem__((0, 0), 2), "multiples of 2"),
        (lambda f: f.image_grid_thw.__setitem__((0, 1), 8), "the pictures take"),
    ],
)
def test_features_that_would_break_the_model_are_refused(change, reason):
    features = mixed(2, (4, 4), 1)
    check_features(features, SPEC)
    change(features)
    with pytest.raises(InvalidInputError, match=reason):
        check_features(features, SPEC)
