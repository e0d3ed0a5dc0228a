"""The computed operations of both towers, against PyTorch's own count."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLModel

from benchmarks.encoder.sizing import FlopCount
from lensemble.preprocess.features import Features
from lensemble_client import Item
from lensemble_export.model_shapes import SHAPES
from lensemble_export.random_checkpoint import make_config
from tests.paths import ROOT
from tests.pictures import encode, textured


@pytest.mark.parametrize(("shape", "gb"), [("2b", "4.3"), ("4b", "8.9"), ("8b", "16.3")])
def test_weights_are_those_that_the_server_loads_and_the_docs_state(shape, gb):
    ids = dict.fromkeys(("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"), 0)
    with torch.device("meta"):
        model = Qwen3VLModel(make_config(shape, ids))
    loaded = sum(each.numel() for each in model.parameters())
    computed = FlopCount(SHAPES[shape]["text"], SHAPES[shape]["vision"]).weights()
    assert computed == pytest.approx(loaded, rel=0.002)
    assert f"{2 * computed / 1e9:.1f}" == gb
    page = (ROOT / "docs" / "performance.md").read_text()
    assert f"{gb} GB ({shape.upper()})" in page


@pytest.mark.parametrize("side", [96, 160])
def test_operations_are_those_that_pytorch_counts(pipeline, plain_encoder, side):
    features: Features = pipeline.preprocess(Item(images=(encode(textured(side, side)),)))
    packed = plain_encoder.pack([features])
    counter = FlopCounterMode(display=False)
    with counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain_encoder.forward(packed)
    flop = FlopCount(SHAPES["tiny"]["text"], SHAPES["tiny"]["vision"])
    counted = counter.get_total_flops()
    expected = flop.of_patches(len(features.patches)) + flop.of_tokens(len(features.input_ids))
    # PyTorch counts all pairs of causal attention, the formula only the half that is computed.
    assert counted == pytest.approx(expected, rel=0.02)
