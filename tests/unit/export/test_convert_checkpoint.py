"""The conversion of a Hugging Face checkpoint: its profile, its checks, its refusals."""

import json
import shutil

import pytest

from lensemble.checkpoint import Checkpoint
from lensemble.profile import Profile
from lensemble_client import InvalidInputError
from lensemble_export.convert_checkpoint import PROFILES, convert_checkpoint
from lensemble_export.sentence_transformers_files import write_sentence_transformers_files
from tests.paths import ROOT
from tests.unit.export.source_checkpoint import write_source_checkpoint


@pytest.fixture
def source(tmp_path):
    return write_source_checkpoint(tmp_path / "source", tokenizer_appends_endoftext=True)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_serving_checkpoint_is_complete_and_its_checks_are_reported(source, tmp_path):
    lines = []
    profile = convert_checkpoint(str(source), tmp_path / "out", report=lines.append)
    assert Checkpoint.open(tmp_path / "out", full=True).profile == profile
    assert profile.dimension == 256
    report = "\n".join(lines)
    assert "special tokens: not the published ids, but consistent" in report
    assert "<|endoftext|>: the tokenizer appends it, and so does this profile" in report
    assert "pictures: 4096 to 1843200 pixels (the official embedder's)" in report
    assert "the checkpoint's image processor says 65536 to 16777216" in report


def test_files_for_sentence_transformers_are_no_part_of_the_profile(source, tmp_path):
    profile = convert_checkpoint(str(source), tmp_path / "out")
    added = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
    assert added <= {path.name for path in (tmp_path / "out").iterdir()}
    assert not added & profile.files.keys()


def test_demo_checkpoint_has_the_present_files_for_sentence_transformers(tmp_path):
    folder = ROOT / "demo" / "checkpoint"
    write_sentence_transformers_files(Profile.load(folder), tmp_path)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 4
    for path in written:
        assert (folder / path.relative_to(tmp_path)).read_text() == path.read_text()


def test_same_source_gives_the_same_hash(source, tmp_path):
    first = convert_checkpoint(str(source), tmp_path / "a")
    assert convert_checkpoint(str(source), tmp_path / "b").hash == first.hash
    assert convert_checkpoint(str(source), tmp_path / "c", "qwen3-vl-mean").hash != first.hash
    assert convert_checkpoint(str(source), tmp_path / "d", max_pixels=10_000).hash != first.hash
    shorter = convert_checkpoint(str(source), tmp_path / "e", min_dimension=32)
    assert (first.min_dimension, shorter.min_dimension) == (64, 32)
    assert shorter.hash != first.hash


@pytest.mark.parametrize(
    ("tokenizer_appends", "name", "option", "appended", "message"),
    [
        (True, "qwen3-vl-embedding", None, True, "so does this profile"),
        (False, "qwen3-vl-embedding", None, True, "does NOT append it; this profile"),
        (False, "qwen3-vl-embedding", False, False, "neither"),
        (False, "qwen3-vl-mean", None, False, "neither"),
        (True, "qwen3-vl-mean", None, False, "this profile does NOT"),
    ],
)
def test_the_profile_decides_on_endoftext_and_the_report_says_so(
    tmp_path, tokenizer_appends, name, option, appended, message
):
    source = write_source_checkpoint(
        tmp_path / "source", tokenizer_appends_endoftext=tokenizer_appends
    )
    lines = []
    profile = convert_checkpoint(
        str(source), tmp_path / "out", name, append_endoftext=option, report=lines.append
    )
    assert profile.prompt.append_endoftext is appended
    assert any(line.startswith("<|endoftext|>") and message in line for line in lines)


def test_pixel_limits_of_the_mean_profile_are_the_checkpoints_with_a_cap(source, tmp_path):
    profile = convert_checkpoint(str(source), tmp_path / "out", "qwen3-vl-mean")
    assert (profile.image.min_pixels, profile.image.max_pixels) == (65_536, 1_843_200)


def test_mean_and_std_come_from_the_checkpoint(source, tmp_path):
    edit(source / "preprocessor_config.json", lambda c: c.update(image_mean=[0.1, 0.2, 0.3]))
    assert convert_checkpoint(str(source), tmp_path / "out").image.mean == (0.1, 0.2, 0.3)


def pickles_only(source):
    for path in source.glob("*.safetensors"):
        path.rename(source / "pytorch_model.bin")
    (source / "model.safetensors.index.json").unlink()


def unmark_image_pad(source):
    edit(
        source / "tokenizer.json",
        lambda c: [t.update(special=False) for t in c["added_tokens"] if "image" in t["content"]],
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (pickles_only, "loading pytorch_model.bin can run code"),
        (unmark_image_pad, r"<\|image_pad\|> are not marked special"),
        (lambda s: (s / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda s: (s / "tokenizer.json").write_text("{}"), "cannot read tokenizer.json"),
        (
            lambda s: next(s.glob("*.safetensors")).write_text("version https://git-lfs..."),
            "cannot read .* git-lfs pointer",
        ),
        (
            lambda s: edit(s / "preprocessor_config.json", lambda c: c.pop("image_mean")),
            "image_mean None; expected three numbers",
        ),
        (lambda s: (s / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
        (lambda s: (s / "config.json").write_text("{"), "is not JSON"),
        (lambda s: (s / "config.json").write_text("[1]"), "contains a list; expected a JSON obj"),
        (
            lambda s: (s / "preprocessor_config.json").write_text('"text"'),
            "contains a str; expected a JSON obj",
        ),
        (
            lambda s: edit(s / "config.json", lambda c: c.update(architectures={"a": 1})),
            "architecture is 'none'",
        ),
        (
            lambda s: edit(
                s / "config.json", lambda c: c["text_config"].update(hidden_size="large")
            ),
            "hidden_size and vocab_size, both whole numbers",
        ),
        (
            lambda s: (s / "model.safetensors.index.json").write_text("{}"),
            "has no weight_map",
        ),
        (
            lambda s: edit(
                s / "preprocessor_config.json", lambda c: c["size"].update(longest_edge="wide")
            ),
            "an area of 'wide' pixels",
        ),
        (lambda s: edit(s / "config.json", lambda c: c.update(image_token_id=7)), "says image_tok"),
        (lambda s: edit(s / "config.json", lambda c: c.update(model_type="llama")), "architecture"),
        (lambda s: edit(s / "config.json", lambda c: c.pop("text_config")), "no text_config"),
        (
            lambda s: edit(s / "config.json", lambda c: c["text_config"].update(vocab_size=99)),
            "outside the model's vocabulary",
        ),
        (lambda s: next(s.glob("*.safetensors")).rename(s / "other.safetensors"), "missing"),
        (
            lambda s: edit(s / "preprocessor_config.json", lambda c: c.update(patch_size=14)),
            "patch_size 14; expected 16",
        ),
    ],
)
def test_a_source_that_would_embed_wrongly_is_refused(source, tmp_path, damage, reason):
    damage(source)
    with pytest.raises(InvalidInputError, match=reason):
        convert_checkpoint(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("profile", "requested", "message"),
    [
        ("qwen3-vl-embedding", -5, "min_dimension: -5; expected 1 to 256"),
        ("qwen3-vl-embedding", 0, "min_dimension: 0; expected 1 to 256"),
        ("qwen3-vl-embedding", 257, "min_dimension: 257; expected 1 to 256"),
        (
            "qwen3-vl-mean",
            64,
            "min_dimension: 64; expected none: this profile's vectors cannot be cut",
        ),
    ],
)
def test_the_smallest_dimension_must_be_supported(source, tmp_path, profile, requested, message):
    with pytest.raises(InvalidInputError, match=message):
        convert_checkpoint(str(source), tmp_path / "out", profile, min_dimension=requested)
    assert not (tmp_path / "out").exists()


def test_output_must_be_empty(source, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInputError, match="is not an empty folder"):
        convert_checkpoint(str(source), tmp_path)


@pytest.mark.parametrize("name", ["no/such/folder", "nowhere", "./x/y"])
def test_source_that_is_neither_folder_nor_hub_id_is_refused(name, tmp_path):
    with pytest.raises(InvalidInputError, match="no folder"):
        convert_checkpoint(name, tmp_path / "out")


def test_hub_id_is_taken_from_the_hubs_cache(source, tmp_path, monkeypatch):
    """The real hub client reads a cache in its own layout, without the network."""
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))
    cached = tmp_path / "cache" / "models--Qwen--Qwen3-VL-Embedding-2B"
    shutil.copytree(source, cached / "snapshots" / "abc123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc123")
    profile = convert_checkpoint("Qwen/Qwen3-VL-Embedding-2B", tmp_path / "out")
    assert profile.model_id == "Qwen/Qwen3-VL-Embedding-2B"
    assert profile.content_hash == convert_checkpoint(str(source), tmp_path / "again").content_hash
    with pytest.raises(InvalidInputError, match="cannot get 'Qwen/unknown' from the hub"):
        convert_checkpoint("Qwen/unknown", tmp_path / "other")


def test_profiles_have_their_documented_names():
    assert list(PROFILES) == ["qwen3-vl-embedding", "qwen3-vl-mean"]
