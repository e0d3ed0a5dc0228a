"""Kinds of kernels, and the figures of a profile."""

import re

import pytest
import torch

from benchmarks.gpu.measuring.kernel_profile import kind_of, profile_passes, summarize


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNN", "matrix product"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix product"),
        ("void pytorch_flash::flash_fwd_kernel<cutlass::bfloat16_t, 128>", "attention"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::silu>", "elementwise"),
        ("void at::native::vectorized_layer_norm_kernel<c10::BFloat16>", "normalization"),
        ("triton_red_fused__fused_rms_norm_add_0", "normalization"),
        ("triton_poi_fused_mul_silu_1", "elementwise"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy", "copy"),
        ("void at::native::reduce_kernel<512, 1>", "reduction"),
        ("something_new", "other"),
    ],
)
def test_kind_of_a_kernel(kernel, kind):
    assert kind_of(kernel) == kind


def test_summary_of_a_pass():
    kernels = {"gemm_1": (28, 600.0), "gemm_2": (28, 100.0), "silu_kernel": (28, 300.0)}
    assert summarize(kernels, pass_s=0.002) == {
        "kernels": 84,
        "device_ms": 1.0,
        "busy": 0.5,
        "shares": {"elementwise": 0.3, "matrix product": 0.7},
    }


def test_pass_without_kernels():
    assert summarize({}, pass_s=0.001)["busy"] == 0


def test_profile_counts_the_calls_of_one_pass():
    left = torch.ones(8, 8)
    table, summary = profile_passes(
        lambda: [torch.mm(left, left) for _ in range(4)], torch.device("cpu"), 0.001
    )
    assert re.search(r" 4  aten::mm$", table, re.MULTILINE)
    assert summary["shares"]["matrix product"] > 0
