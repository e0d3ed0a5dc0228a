"""The computed operations of both towers, against PyTorch's own count."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.encoder.sizing import FlopCount
from lensemble.preprocess.features import Features
from lensemble_client import Item
from lensemble_export.model_shapes import SHAPES
from tests.pictures import encode, textured


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
