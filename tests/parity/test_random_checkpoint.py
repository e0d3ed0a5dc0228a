"""Checkpoints with random weights, and their conversion: Transformers loads both."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLModel

from lensemble_export import random_checkpoint
from lensemble_export.__main__ import main
from lensemble_export.model_shapes import SHAPES
from lensemble_export.random_checkpoint import make_config, write_random_checkpoint
from lensemble_export.tokenizer import SPECIAL_TOKENS

IDS = {token: n for n, token in enumerate(SPECIAL_TOKENS)}


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [("tiny", 10.92e6), ("small", 95.48e6), ("2b", 2.128e9), ("4b", 4.438e9), ("8b", 8.767e9)],
)
def test_shape_has_the_published_number_of_parameters(shape, parameters):
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(make_config(shape, IDS))
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(parameters, rel=1e-3)
    assert SHAPES[shape]["vision"]["out_hidden_size"] == SHAPES[shape]["text"]["hidden_size"]


def test_large_checkpoint_is_split_into_files_that_transformers_joins(tmp_path, monkeypatch):
    monkeypatch.setattr(random_checkpoint, "MAX_FILE_BYTES", 10_000_000)
    write_random_checkpoint(tmp_path / "split")
    index = json.loads((tmp_path / "split" / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 3
    assert all((tmp_path / "split" / name).stat().st_size < 12_000_000 for name in files)
    model, info = Qwen3VLForConditionalGeneration.from_pretrained(
        tmp_path / "split", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_a_serving_checkpoint_loads_in_transformers(checkpoint):
    model = Qwen3VLModel.from_pretrained(checkpoint, use_safetensors=True)
    assert model.config.text_config.hidden_size == 256


def test_the_command_line_makes_converts_and_verifies(tmp_path, capsys):
    raw, serving = str(tmp_path / "raw"), str(tmp_path / "serving")
    assert main(["random", raw, "--seed", "3"]) == 0
    assert main(["checkpoint", raw, serving, "--profile", "qwen3-vl-embedding"]) == 0
    assert main(["verify", serving]) == 0
    assert "undamaged; qwen3-vl-embedding, 256 dimensions" in capsys.readouterr().out
    assert main(["random", raw]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert main(["random", str(tmp_path / "x"), "--shape", "70b"]) == 1


def test_random_weights_follow_their_seed(sources, tmp_path):
    assert main(["random", str(tmp_path / "same")]) == 0
    assert main(["random", str(tmp_path / "other"), "--seed", "1"]) == 0
    names = ["model-00001-of-00001.safetensors"]
    first, same, other = (
        load_file(folder / names[0])["model.visual.patch_embed.proj.weight"]
        for folder in (sources["qwen3-vl-embedding"], tmp_path / "same", tmp_path / "other")
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_tokenizer_is_byte_level_and_lossless(sources):
    tokenizer = Tokenizer.from_file(str(sources["qwen3-vl-mean"] / "tokenizer.json"))
    for text in ("parachoques dañado", "日本語 🚗\n\t", "a\x00b"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("el parachoques delantero está roto").ids) < 12
