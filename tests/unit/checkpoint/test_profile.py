import json
from dataclasses import replace

import pytest

from lensemble.profile import Profile
from lensemble_client import InvalidInputError
from tests.profiles import make_profile


def test_profile_is_loaded_as_it_was_saved(tmp_path):
    profile = make_profile(files={"a": ("0", 1)})
    profile.save(tmp_path)
    assert Profile.load(tmp_path) == profile
    assert Profile.load(tmp_path).hash == profile.hash


def test_hash_depends_on_every_field_that_changes_a_vector():
    profile = make_profile()
    changed = [
        replace(profile, pooling="mean"),
        replace(profile, dimension=1),
        replace(profile, content_hash="sha256:0"),
        replace(profile, prompt=replace(profile.prompt, instruction="x")),
        replace(profile, prompt=replace(profile.prompt, append_endoftext=False)),
        replace(profile, image=replace(profile.image, max_pixels=1)),
        replace(profile, image=replace(profile.image, mean=(0.4, 0.5, 0.5))),
    ]
    assert len({each.hash for each in [profile, *changed]}) == 1 + len(changed)
    assert replace(profile, model_id="elsewhere", files={"a": ("0", 1)}).hash == profile.hash


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: fields.update(pooling="mean"), "was changed after it was written"),
        (lambda fields: fields["image"].update(max_pixels=5), "was changed after it was written"),
        (lambda fields: fields.update(format=99), "has format 99, expected 1"),
        (lambda fields: fields.pop("image"), "is damaged"),
        (lambda fields: fields.update(surprise=1), "is damaged"),
    ],
)
def test_edited_profile_is_refused(tmp_path, change, reason):
    make_profile().save(tmp_path)
    path = tmp_path / "profile.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(InvalidInputError, match=reason):
        Profile.load(tmp_path)


def test_error_of_folder_without_profile_says_how_to_make_one(tmp_path):
    with pytest.raises(InvalidInputError, match="lensemble_export checkpoint"):
        Profile.load(tmp_path)
    (tmp_path / "profile.json").write_text("{")
    with pytest.raises(InvalidInputError, match="is not JSON"):
        Profile.load(tmp_path)


@pytest.mark.parametrize("dimensions", [0, -1, 63, 257])
def test_dimensions_outside_the_profile_are_refused(dimensions):
    with pytest.raises(InvalidInputError, match=f"dimensions: {dimensions}; .* 64 to 256"):
        make_profile().check_dimensions(dimensions)


def test_vectors_of_a_profile_that_was_not_trained_for_it_are_not_cut():
    profile = make_profile(min_dimension=256)
    assert profile.check_dimensions(None) == profile.check_dimensions(256) == 256
    with pytest.raises(InvalidInputError, match="256 only"):
        profile.check_dimensions(128)
