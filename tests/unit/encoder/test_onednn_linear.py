import copy

import pytest
import torch

from lensemble.encoder.pytorch.onednn_linear import OneDnnLinear, pack


def packed(product: Product) -> Product:
    twin = copy.deepcopy(product)
    pack(twin)
    return twin


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("rows", [1, 3, 300])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gelu", [None, "none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_is_the_same(rows, bias, gelu, dtype):
    weight = random(512, 600).to(dtype)
    product = Product(weight, random(512).to(dtype) if bias else None, gelu)
    x = random(rows, 600).to(dtype)
    with torch.inference_mode():
        expected, found = product(x), packed(product)(x)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.5}[dtype]  # of numbers up to 100
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0.02)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [8, 600])
def test_sum_is_product_and_rest(bias, width):
    product = Product(random(512, width), random(512) if bias else None)
    x, rest = random(4, width), random(4, 512)
    expected = product(x) + rest
    for one in (product, packed(product)):
        torch.testing.assert_close(one.added_to(x, rest.clone()), expected, atol=1e-4, rtol=1e-4)


def test_large_weights_are_there_once_and_small_ones_as_they_were():
    large, small = packed(Product(random(512, 600))), packed(Product(random(8, 8)))
    assert large.weight.numel() == 0
    assert small.weight.shape == (8, 8)
