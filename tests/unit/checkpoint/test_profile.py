import json

import pytest

from lensemble.profile import Profile
from lensemble_client import InvalidInputError


def test_profile_comes_back_from_its_file(checkpoint, tmp_path):
    profile = Profile.load(checkpoint)
    profile.save(tmp_path)
    assert Profile.load(tmp_path) == profile
    assert Profile.load(tmp_path).hash == profile.hash


def test_every_field_that_changes_a_vector_changes_the_hash(checkpoint):
    profile = Profile.load(checkpoint)
    from dataclasses import replace

    changed = [
        replace(profile, pooling="mean"),
        replace(profile, dimension=1),
        replace(profile, content_hash="sha256:0"),
        replace(profile, prompt=replace(profile.prompt, instruction="x")),
        replace(profile, prompt=replace(profile.prompt, append_endoftext=False)),
        replace(profile, image=replace(profile.image, max_pixels=1)),
        replace(profile, image=replace(profile.image, mean=(0.4, 0.5, 0.5))),
    ]
    assert len({p.hash for p in [profile, *changed]}) == 1 + len(changed)
    assert replace(profile, model_id="elsewhere", files={}).hash == profile.hash


def edited(checkpoint, tmp_path, change):
    said = json.loads((checkpoint / "profile.json").read_text())
    change(said)
    (tmp_path / "profile.json").write_text(json.dumps(said))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda said: said.update(pooling="mean"), "was changed after it was written"),
        (lambda said: said["image"].update(max_pixels=5), "was changed after it was written"),
        (lambda said: said.update(format=99), "has format 99, expected 1"),
        (lambda said: said.pop("image"), "is damaged"),
        (lambda said: said.update(surprise=1), "is damaged"),
    ],
)
def test_edited_profile_is_refused(checkpoint, tmp_path, change, reason):
    with pytest.raises(InvalidInputError, match=reason):
        Profile.load(edited(checkpoint, tmp_path, change))


def test_folder_without_profile_says_how_to_make_one(tmp_path):
    with pytest.raises(InvalidInputError, match="lensemble_export checkpoint"):
        Profile.load(tmp_path)
    (tmp_path / "profile.json").write_text("{")
    with pytest.raises(InvalidInputError, match="is not JSON"):
        Profile.load(tmp_path)


@pytest.mark.parametrize("asked", [0, -1, 63, 257])
def test_dimensions_outside_the_profile_are_refused(checkpoint, asked):
    with pytest.raises(InvalidInputError, match=f"dimensions: {asked}; .* 64 to 256"):
        Profile.load(checkpoint).check_dimensions(asked)


def test_mean_profile_is_not_cut(checkpoints):
    profile = Profile.load(checkpoints["qwen3-vl-mean"])
    assert profile.check_dimensions(None) == profile.check_dimensions(256) == 256
    with pytest.raises(InvalidInputError, match="256 only"):
        profile.check_dimensions(128)
