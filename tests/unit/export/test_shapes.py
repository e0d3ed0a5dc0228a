"""The named shapes against the published sizes of the models."""

import json

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from lensemble_export import random_checkpoint
from lensemble_export.model_shapes import SHAPES
from lensemble_export.random_checkpoint import _config, write_random_checkpoint
from lensemble_export.tokenizer import SPECIAL_TOKENS

IDS = {token: n for n, token in enumerate(SPECIAL_TOKENS)}


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [("tiny", 10.92e6), ("small", 95.48e6), ("2b", 2.128e9), ("4b", 4.438e9), ("8b", 8.767e9)],
)
def test_shape_has_the_published_number_of_parameters(shape, parameters):
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(_config(shape, IDS))
    counted = sum(p.numel() for p in model.parameters())
    assert counted == pytest.approx(parameters, rel=1e-3)
    assert SHAPES[shape]["vision"]["out_hidden_size"] == SHAPES[shape]["text"]["hidden_size"]


def test_large_checkpoint_is_split_into_files_that_transformers_joins(tmp_path, monkeypatch):
    monkeypatch.setattr(random_checkpoint, "MAX_FILE_BYTES", 10_000_000)
    write_random_checkpoint(tmp_path / "split")
    write = json.loads((tmp_path / "split" / "model.safetensors.index.json").read_text())
    files = set(write["weight_map"].values())
    assert len(files) > 3
    assert all((tmp_path / "split" / name).stat().st_size < 12_000_000 for name in files)
    model, info = Qwen3VLForConditionalGeneration.from_pretrained(
        tmp_path / "split", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
