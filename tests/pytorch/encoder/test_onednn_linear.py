import copy

import pytest
import torch

from lensemble.encoder.pytorch.onednn_linear import OneDnnLinear, reorder_weights


def reordered(layer: OneDnnLinear) -> OneDnnLinear:
    copied = copy.deepcopy(layer)
    reorder_weights(copied)
    return copied


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("rows", [1, 3, 300])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gelu", [None, "none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reordered_layer_gives_the_same_result(rows, bias, gelu, dtype):
    weight = random(512, 600).to(dtype)
    layer = OneDnnLinear(weight, random(512).to(dtype) if bias else None, gelu)
    x = random(rows, 600).to(dtype)
    with torch.inference_mode():
        expected, actual = layer(x), reordered(layer)(x)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.5}[dtype]  # the numbers are up to 100
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0.02)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [8, 600])
def test_added_to_adds_the_product_to_the_residual(bias, width):
    layer = OneDnnLinear(random(512, width), random(512) if bias else None)
    x, residual = random(4, width), random(4, 512)
    expected = layer(x) + residual
    for each in (layer, reordered(layer)):
        torch.testing.assert_close(
            each.added_to(x, residual.clone()), expected, atol=1e-4, rtol=1e-4
        )


def test_large_weights_are_reordered_and_small_ones_are_not():
    large, small = reordered(OneDnnLinear(random(512, 600))), reordered(OneDnnLinear(random(8, 8)))
    assert large.weight.numel() == 0
    assert small.weight.shape == (8, 8)
