"""Kernels for whole rows: how they are called, and which one is chosen.

The kernels need a GPU, so fakes compute what they compute, and refuse what they refuse.
"""

import logging

import pytest
import torch

from lensemble.encoder.pytorch.attention import varlen_kernels
from lensemble.encoder.pytorch.attention.varlen_kernels import AttentionShape, choose_kernels
from tests.pytorch.encoder.test_attention import BOUNDARIES, dense, tensors

SHAPE = AttentionShape(heads=4, key_heads=2, head_dim=8, causal=True)


@pytest.fixture(autouse=True)
def _nothing_is_chosen_and_trials_are_short(monkeypatch):
    monkeypatch.setattr(varlen_kernels, "_chosen", {})
    monkeypatch.setattr(varlen_kernels, "_TRIAL_LENGTHS", (1, 7, 40))
    monkeypatch.setattr(varlen_kernels, "_TRIAL_CALLS", 1)


def dense_rows(q, k, v, causal):
    """The expected result, in the kernels' layout (L, heads, head_dim)."""
    return dense(*(tensor.transpose(0, 1)[None] for tensor in (q, k, v)), causal)[0]


def varlen_attn_of_2_13(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa=False):
    assert (max_q, max_k, scale) == (4, 4, 0.3)
    assert cu_q is cu_k is BOUNDARIES
    assert enable_gqa == (q.shape[1] != k.shape[1])
    return dense_rows(q, k, v, causal={(-1, 0): True, (-1, -1): False}[window_size])


def varlen_attn_of_2_11(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size):
    """It has no `enable_gqa`: keys and values must have all heads."""
    assert q.shape[1] == k.shape[1]
    return varlen_attn_of_2_13(
        q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window_size
    )


def flash_attention_forward(
    query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, debug, *, scale
):
    """The operation of PyTorch 2.11 to 2.14; it takes grouped heads."""
    assert (max_q, max_k, dropout_p, debug, scale) == (4, 4, 0.0, False, 0.3)
    assert cum_seq_q is cum_seq_k is BOUNDARIES
    return dense_rows(query, key, value, is_causal), None, None, None, None


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("kernel", ["2.11", "2.13", "flash"])
def test_kernels_get_what_their_version_takes(monkeypatch, causal, key_heads, kernel):
    if kernel == "flash":
        monkeypatch.setattr(
            torch.ops.aten, "_flash_attention_forward", flash_attention_forward, raising=False
        )
        function = varlen_kernels.flash_forward
    else:
        fake = {"2.11": varlen_attn_of_2_11, "2.13": varlen_attn_of_2_13}[kernel]
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", fake)
        function = varlen_kernels.varlen_attn
    query, key, value = tensors(4, key_heads)
    out = function(
        *(tensor[0].transpose(0, 1) for tensor in (query, key, value)), BOUNDARIES, 4, 0.3, causal
    )
    torch.testing.assert_close(out[None], dense(query, key, value, causal), atol=1e-6, rtol=1e-5)


def test_arguments_are_those_of_the_installed_operation():
    schema = torch.ops.aten._flash_attention_forward.default._schema
    assert [argument.name for argument in schema.arguments][:10] == [
        "query",
        "key",
        "value",
        "cum_seq_q",
        "cum_seq_k",
        "max_q",
        "max_k",
        "dropout_p",
        "is_causal",
        "return_debug_mask",
    ]
    assert "scale" in {argument.name for argument in schema.arguments if argument.kwarg_only}


def test_signature_is_read_once(monkeypatch):
    signatures = []
    inspect = varlen_kernels.inspect.signature
    monkeypatch.setattr(
        varlen_kernels.inspect,
        "signature",
        lambda function: signatures.append(function) or inspect(function),
    )

    def varlen_attn(*args, enable_gqa=False, **kwargs):
        return varlen_attn_of_2_13(*args, enable_gqa=enable_gqa, **kwargs)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    rows = [tensor[0].transpose(0, 1) for tensor in tensors(4, 2)]
    for _ in range(28):  # layers of a 2B model
        varlen_kernels.varlen_attn(*rows, BOUNDARIES, 4, 0.3, True)
    assert signatures == [varlen_attn]


def right(*arguments):
    return varlen_kernels.attend_with_sdpa(*arguments)


def without_causality(q, k, v, boundaries, max_length, scale, causal):
    return varlen_kernels.attend_with_sdpa(q, k, v, boundaries, max_length, scale, False)


def one_segment(q, k, v, boundaries, max_length, scale, causal):
    return varlen_kernels.attend_with_sdpa(q, k, v, boundaries[[0, -1]], len(q), scale, causal)


def not_a_number(q, *_):
    return torch.full_like(q, torch.nan)


def fails(*_):
    raise RuntimeError("no kernel image is available for this device")


CPU = torch.device("cpu")


@pytest.mark.parametrize("wrong", [without_causality, one_segment, not_a_number, fails])
@pytest.mark.parametrize("dtype", varlen_kernels.DTYPES)
@pytest.mark.parametrize("head_dim", [64, 72, 128])
def test_only_right_kernels_are_chosen(wrong, dtype, head_dim, caplog):
    caplog.set_level(logging.INFO)
    shape = AttentionShape(heads=4, key_heads=2, head_dim=head_dim, causal=True)
    choose_kernels([shape], CPU, dtype, kernels=[wrong, right])
    assert varlen_kernels._chosen == {shape: right}
    assert f"not used: {wrong.__name__}: " in caplog.text


def test_without_a_right_kernel_attention_goes_by_segments_and_the_log_says_why(caplog):
    choose_kernels([SHAPE], CPU, torch.bfloat16, kernels=[fails, one_segment])
    assert varlen_kernels._chosen == {SHAPE: varlen_kernels.attend_with_sdpa}
    assert "attention is slow" in caplog.text
    assert "no kernel image is available" in caplog.text


def test_fastest_right_kernel_is_chosen(monkeypatch):
    seconds = {"first": 3e-6, "second": 2e-6, "third": 4e-6}
    monkeypatch.setattr(varlen_kernels, "_try", lambda kernel, *_: seconds[kernel.__name__])

    def named(name):
        def kernel(*_):
            raise AssertionError

        kernel.__name__ = name
        return kernel

    kernels = [named(name) for name in seconds]
    choose_kernels([SHAPE], CPU, torch.bfloat16, kernels=kernels)
    assert varlen_kernels._chosen == {SHAPE: kernels[1]}


def trials(monkeypatch, *, flash_fails):
    """Replaces the trials; `varlen_attn` would be the faster one. Returns the list of them."""
    tried = []

    def trial(kernel, *_):
        tried.append(kernel)
        if kernel is varlen_kernels.flash_forward and flash_fails:
            raise RuntimeError("no kernel image is available for this device")
        return 1.0 if kernel is varlen_kernels.flash_forward else 0.1

    monkeypatch.setattr(varlen_kernels, "_try", trial)
    return tried


PICTURES = AttentionShape(heads=16, key_heads=16, head_dim=64, causal=False)


def test_kernel_that_prepares_every_new_size_is_the_second_choice_for_pictures(monkeypatch):
    flash, varlen = varlen_kernels.flash_forward, varlen_kernels.varlen_attn
    assert trials(monkeypatch, flash_fails=False) == []
    choose_kernels([PICTURES, SHAPE], CPU, torch.bfloat16)
    assert varlen_kernels._chosen == {PICTURES: flash, SHAPE: varlen}
    tried = trials(monkeypatch, flash_fails=True)
    choose_kernels([PICTURES], CPU, torch.bfloat16)
    assert tried == [flash, varlen]
    assert varlen_kernels._chosen[PICTURES] is varlen


def test_only_attention_that_waits_for_no_result_may_be_recorded():
    assert varlen_kernels.waits_for_no_result(SHAPE, torch.bfloat16)
    assert not varlen_kernels.waits_for_no_result(SHAPE, torch.float32)
    varlen_kernels._chosen[SHAPE] = varlen_kernels.attend_with_sdpa
    assert not varlen_kernels.waits_for_no_result(SHAPE, torch.bfloat16)


def test_chosen_kernel_is_the_one_that_attends():
    calls = []

    def kernel(q, *_):
        calls.append(q.shape)
        return q

    varlen_kernels._chosen[SHAPE] = kernel
    q, k, v = (tensor[0].transpose(0, 1) for tensor in tensors(4, 2))
    assert varlen_kernels.attend(q, k, v, BOUNDARIES, 4, None, True) is q
    assert calls == [(11, 4, 8)]


def test_nothing_is_tried_in_fp32():
    choose_kernels([SHAPE], CPU, torch.float32, kernels=[fails])
    assert varlen_kernels._chosen == {}
