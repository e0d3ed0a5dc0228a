"""Whole passes on the kernels, on fake CUDA tensors in the published shapes: see `tests.fake_cuda`.

The kernels themselves are not started, but everything around them runs: what they are given, and
how many operations of PyTorch are left.
"""

from collections import Counter

import pytest
import torch

from lensemble.encoder.pytorch.fused_layers import use_operations
from lensemble.encoder.pytorch.kernels.gpu_operations import gpu_operations
from tests.fake_cuda import CUDA, fake_engine, run_pass
from tests.pytorch.encoder.test_fake_cuda import BATCHES


class Recorder:
    """Stands for the launcher; checks what the kernels are given."""

    def __init__(self, dtype):
        self.counts = Counter()
        self._dtype = dtype

    def __call__(self, kernel, grid, tensors, numbers, constants, warps):
        name = kernel.fn.__name__
        self.counts[name] += 1
        given = dict(zip(kernel.arg_names, (*tensors, *numbers, *constants), strict=True))
        for argument, tensor in given.items():
            if not isinstance(tensor, torch.Tensor):
                continue
            assert tensor.device == CUDA and tensor.is_contiguous(), (name, argument)
            table = argument in ("cos", "sin")
            assert tensor.dtype == (torch.float32 if table else self._dtype), (name, argument)
            assert argument.endswith(("weight", "bias")) or len(tensor) == grid[0]
            if table:
                assert tensor.shape == (grid[0], given["SIZE"])


@pytest.mark.parametrize("shape", ["2b", "4b", "8b"])
def test_kernels_replace_most_operations_of_a_layer(shape, monkeypatch, capsys):
    engine, mode = fake_engine(shape, monkeypatch)
    text, vision = engine.model.language_model, engine.model.visual
    layers, depth = len(text.layers), len(vision.blocks)
    deepstack = len(vision.deepstack_merger_list)
    for name, items in BATCHES.items():
        before = run_pass(engine, mode, items)[1].total()
        recorder = Recorder(torch.bfloat16)
        for tower in (text, vision):
            use_operations(tower, gpu_operations(recorder))
        vectors, operations = run_pass(engine, mode, items)
        assert vectors.device == CUDA
        for tower in (text, vision):
            use_operations(tower, None)
        pictures = any(len(item.patches) for item in items)
        assert recorder.counts == Counter(
            {
                "add_rms_norm_kernel": 2 * layers - (deepstack if pictures else 0),
                "qk_norm_rotary_kernel": layers,
                "swiglu_kernel": layers,
            }
            | (
                {"add_layer_norm_kernel": 2 * depth - 1, "vision_rotary_kernel": depth}
                if pictures
                else {}
            )
        )
        # cuBLAS's GELU has the tanh form: for the blocks, and never for the mergers, whose GELU is
        # exact.
        assert operations["aten._addmm_activation.default"] == (depth if pictures else 0)
        assert operations["aten.gelu.default"] == (1 + deepstack if pictures else 0)
        started = operations - Counter(  # memory for results is no work for the device
            {name: n for name, n in operations.items() if "empty" in name}
        )
        after = started.total() + recorder.counts.total()
        with capsys.disabled():
            print(f"\n{shape}, {name}: {before} operations, {after} with kernels", end="")
        assert after < 0.75 * before
