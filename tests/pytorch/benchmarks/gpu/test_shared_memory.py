"""The weights of every shape that can be asked for fit into the memory that the command makes."""

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.gpu.__main__ import LEAST_FREE, SHAPES, shared_memory_bytes
from lensemble_export import model_shapes
from lensemble_export.random_checkpoint import make_config

IDS = dict.fromkeys(("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"), 0)
# Triton's tensors in /dev/shm, and what is written beside the weights.
OTHERS_BYTES = 2 * 1024**3


def test_command_knows_all_shapes():
    assert tuple(model_shapes.SHAPES) == SHAPES


@pytest.mark.parametrize("shape", ["2b", "4b", "8b"])
def test_weights_fit_into_shared_memory(shape):
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(make_config(shape, IDS))
    weights = 2 * sum(each.numel() for each in model.parameters())  # bf16; tied ones are one
    assert weights + OTHERS_BYTES <= LEAST_FREE * shared_memory_bytes(shape)
