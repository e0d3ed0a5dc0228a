"""Compares the pipeline in this process with Transformers' own processor and model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch import patch_embedding
from lensemble.encoder.pytorch.patch_embedding import PatchEmbedding
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from tests.conftest import EMBEDDING, MEAN
from tests.parity.cases import CASES
from tests.reference import Reference

MIN_COSINE = {"fp32": 0.99999, "bf16": 0.999}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="session")
def bf16_pipelines(checkpoints):
    return {
        name: Pipeline(Settings(checkpoint=folder, dtype="bf16"))
        for name, folder in checkpoints.items()
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("profile", [EMBEDDING, MEAN])
def test_vector_equals_the_reference(profile, case, pipelines, expected):
    (vector,) = pipelines[profile].embed([CASES[case]])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert cosine(vector, expected(profile, case)) >= MIN_COSINE["fp32"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("profile", [EMBEDDING, MEAN])
def test_bf16_stays_close_to_the_reference_in_fp32(profile, case, bf16_pipelines, expected):
    (vector,) = bf16_pipelines[profile].embed([CASES[case]])
    assert cosine(vector, expected(profile, case)) >= MIN_COSINE["bf16"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("profile", [EMBEDDING, MEAN])
def test_ids_and_grids_equal_the_processors(profile, case, pipelines, references):
    features = pipelines[profile].preprocess(CASES[case])
    inputs = references[profile].inputs(CASES[case])
    np.testing.assert_array_equal(features.input_ids, inputs["input_ids"][0].numpy())
    if "image_grid_thw" in inputs:
        np.testing.assert_array_equal(features.image_grid_thw, inputs["image_grid_thw"].numpy())


@pytest.mark.parametrize("case", [name for name in CASES if "picture" in name])
def test_pixels_equal_the_processors_within_two_levels(case, pipeline, references):
    """The reference's rows hold two equal frames of normalized floats; ours hold one of bytes."""
    theirs = references[EMBEDDING].inputs(CASES[case])["pixel_values"].numpy()
    theirs = theirs.reshape(-1, 3, 2, 256)
    np.testing.assert_array_equal(theirs[:, :, 0], theirs[:, :, 1])
    levels = (theirs[:, :, 0].reshape(-1, 768) + 1) * 127.5
    difference = np.abs(levels - pipeline.preprocess(CASES[case]).patches)
    assert difference.max() <= 2.001
    assert difference.mean() < 0.02


def test_patch_embedding_equals_conv3d_on_the_processors_pixels(references, pipeline):
    """Mean and deviation differ between channels, so that swapping channels would be found."""
    model = references[EMBEDDING].model
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    image = replace(pipeline.checkpoint.profile.image, mean=mean, std=std)
    patches = torch.from_numpy(pipeline.preprocess(CASES["picture_photo_png"]).patches)
    pixels = patches.float().view(-1, 3, 1, 256) / 255
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    embed = model.visual.patch_embed
    with torch.inference_mode():
        expected = embed(pixels.expand(-1, 3, 2, 256).reshape(-1, 1536))
        actual = PatchEmbedding(embed.proj, image)(patches)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def test_packed_towers_equal_the_model_on_the_same_patches(pipeline, references):
    """Without resizing, whose small differences would hide faults, only the packing differs."""
    names = ("picture_portrait", "text", "several_pictures_and_text", "picture_tiny")
    features = [pipeline.preprocess(CASES[name]) for name in names]
    vectors = pipeline.encoder.forward(pack(features, pipeline.encoder.input_spec)).numpy()
    reference: Reference = references[EMBEDDING]
    for vector, item in zip(vectors, features, strict=True):
        ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
        vision_inputs = {}
        if len(item.patches):
            frame = torch.from_numpy(item.patches).float().view(-1, 3, 1, 256) / 127.5 - 1
            vision_inputs = {
                "pixel_values": frame.expand(-1, 3, 2, 256).reshape(-1, 1536),
                "image_grid_thw": torch.from_numpy(item.image_grid_thw.astype(np.int64)),
                "mm_token_type_ids": (ids == reference.model.config.image_token_id).int(),
            }
        with torch.inference_mode():
            out = reference.model(input_ids=ids, use_cache=False, **vision_inputs)
        expected = torch.nn.functional.normalize(out.last_hidden_state[0, -1], dim=-1).numpy()
        np.testing.assert_allclose(vector, expected, atol=2e-5)


def test_wrong_normalization_would_be_found(checkpoint, expected, pipeline, monkeypatch):
    """CLIP's mean and deviation, the defaults of the processor, must fail the parity test."""
    clip = replace(
        pipeline.checkpoint.profile.image,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )
    init = PatchEmbedding.__init__
    monkeypatch.setattr(
        patch_embedding.PatchEmbedding, "__init__", lambda s, conv, _: init(s, conv, clip)
    )
    wrong = Pipeline(Settings(checkpoint=checkpoint, dtype="fp32"))
    (vector,) = wrong.embed([CASES["picture_photo_png"]])
    assert cosine(vector, expected(EMBEDDING, "picture_photo_png")) < MIN_COSINE["fp32"]
