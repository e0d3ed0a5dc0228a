"""Compares each kernel, run by Triton's interpreter, with the official definition in float64."""

import pytest
import torch
from torch.nn import functional as F

from tests.pytorch.encoder.kernels.interpreter import interpreted_operations

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EPS = 1e-6

operations = interpreted_operations()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


def assert_rounded(result: torch.Tensor, exact: torch.Tensor) -> None:
    """Checks for float32 inside and one rounding to the result's dtype.

    The order of sums may change float32 by 2e-6. In bf16 the interpreter truncates, which costs up
    to one unit in the last place instead of half of one.
    """
    rounding = {
        torch.float32: 0.0,
        torch.float16: torch.finfo(torch.float16).eps / 2,
        torch.bfloat16: torch.finfo(torch.bfloat16).eps,
    }
    limit = rounding[result.dtype] * exact.abs() + 2e-6 * exact.abs().clamp(min=1)
    error = (result.double() - exact).abs()
    assert (error <= limit).all(), f"{(error / limit).max():.2f} times the limit"


def tables(rows: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = (torch.rand(rows, size // 2) * 50).repeat(1, 2)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 64), (37, 96), (3, 1152)])
def test_add_rms_norm(dtype, rows, size):
    residual, product = (torch.randn(rows, size).to(dtype) for _ in range(2))
    weight, exact_sum = (torch.rand(size) + 0.5).to(dtype), residual.double() + product.double()
    before = residual.clone()
    result = operations.add_rms_norm(residual, product, weight, EPS)
    assert torch.equal(residual, before)
    assert_rounded(product, exact_sum)
    # The norm is of the sum as it was stored.
    assert_rounded(result, F.rms_norm(product.double(), (size,), weight.double(), EPS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 64), (37, 96), (3, 1152)])
def test_add_layer_norm(dtype, rows, size):
    residual, product = (torch.randn(rows, size).to(dtype) + 0.5 for _ in range(2))
    weight, bias = (torch.rand(size) + 0.5).to(dtype), torch.randn(size).to(dtype)
    exact_sum, before = residual.double() + product.double(), residual.clone()
    result = operations.add_layer_norm(residual, product, weight, bias, EPS)
    assert torch.equal(residual, before)
    assert_rounded(product, exact_sum)
    stored = product.double()
    assert_rounded(result, F.layer_norm(stored, (size,), weight.double(), bias.double(), EPS))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize(
    ("queries", "keys", "size"), [(3, 1, 64), (3, 1, 72), (16, 8, 128), (2, 2, 8)]
)
def test_qk_norm_rotary(dtype, rows, queries, keys, size):
    from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half

    heads = torch.randn(rows, queries + 2 * keys, size).to(dtype)
    weights = [(torch.rand(size) + 0.5).to(dtype) for _ in range(2)]
    cos, sin = tables(rows, size)
    before = heads.clone()
    operations.qk_norm_rotary(heads, *weights, queries, (cos, sin), EPS)
    for part, weight in zip((slice(queries), slice(queries, queries + keys)), weights, strict=True):
        normalized = F.rms_norm(before[:, part].double(), (size,), weight.double(), EPS)
        exact = normalized * cos[:, None] + rotate_half(normalized) * sin[:, None]
        assert_rounded(heads[:, part], exact)
    assert torch.equal(heads[:, queries + keys :], before[:, queries + keys :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize(("count", "size"), [(3, 64), (16, 72), (2, 128)])
def test_vision_rotary(dtype, rows, count, size):
    from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half

    heads = torch.randn(rows, 3 * count, size).to(dtype)
    cos, sin = tables(rows, size)
    before = heads.clone()
    operations.vision_rotary(heads, (cos, sin))
    exact = before.double()
    exact = exact * cos[:, None] + rotate_half(exact) * sin[:, None]
    assert_rounded(heads[:, : 2 * count], exact[:, : 2 * count])
    assert torch.equal(heads[:, 2 * count :], before[:, 2 * count :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 64), (37, 100), (2, 2200)])
def test_swiglu(dtype, rows, size):
    gate_up = (torch.randn(rows, 2 * size) * 3).to(dtype)
    gate_up[0, :2] = torch.tensor([-200.0, 200.0])  # the exponential overflows
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert_rounded(operations.swiglu(gate_up), F.silu(gate) * up)


def test_no_rows():
    assert operations.swiglu(torch.empty(0, 8)).shape == (0, 4)


def test_tensor_that_is_not_contiguous_is_refused():
    part = torch.zeros(4, 8)[:, :4]
    with pytest.raises(ValueError, match=r"strides \(8, 1\); expected contiguous"):
        operations.swiglu(part)
    with pytest.raises(ValueError, match="expected contiguous"):
        operations.add_rms_norm(torch.zeros(4, 4), part, torch.ones(4), EPS)


def test_gelu_of_cublas_is_refused_on_a_cpu():
    from lensemble.encoder.pytorch.kernels.gpu_operations import linear_gelu

    with pytest.raises(ValueError, match="'cpu'; expected a GPU"):
        linear_gelu(torch.zeros(1, 4), torch.zeros(2, 4), torch.zeros(2))


def test_pytorch_states_that_gelu_of_cublas_has_the_tanh_form():
    """Its decomposition takes GELU's tanh form on CUDA, and the exact form elsewhere."""
    from torch._decomp import decomposition_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    forms = []

    class Gelu(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.gelu.default:
                forms.append((kwargs or {}).get("approximate", "none"))
            return function(*args, **(kwargs or {}))

    decomposed = decomposition_table[torch.ops.aten._addmm_activation.default]
    with FakeTensorMode():
        for device in ("cuda", "cpu"):
            bias, x, weight = (torch.zeros(s, device=device) for s in ((4,), (2, 3), (3, 4)))
            with Gelu():
                decomposed(bias, x, weight, use_gelu=True)
    assert forms == ["tanh", "none"]
