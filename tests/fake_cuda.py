"""The encoder on a GPU that does not exist: fake CUDA tensors have shapes and devices, no data.

PyTorch's `FakeTensorMode` runs each operation on shapes alone. An operation whose result depends on
data, such as `.item()`, `.tolist()`, `nonzero`, an index by a boolean mask, or a tensor in an `if`,
would make the CPU wait for a real GPU; on fake tensors it raises an error. So does an operation on
tensors of two devices. `Operations` refuses what fake tensors let pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen3VLModel

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.packing import PackedBatch, pack
from lensemble.encoder.pytorch import gpu_engine, load_torch_engine
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features
from lensemble.settings import Settings
from lensemble_export.random_checkpoint import make_config
from tests.paths import CHECKPOINT

# The second GPU: a tensor that is made on "cuda", without a number, is on the first one.
CUDA = torch.device("cuda", 1)

# Ids of the published tokenizer.
_IDS = {
    "<|vision_start|>": 151_652,
    "<|vision_end|>": 151_653,
    "<|image_pad|>": 151_655,
    "<|video_pad|>": 151_656,
}


class Operations(TorchDispatchMode):
    """Counts the operations that launch a kernel, and checks that all tensors are on the device.

    It also refuses to write by a boolean mask, for which a GPU counts the mask's true values.

    Attributes:
        counts: operation -> how often it was called. Views, and questions about a tensor, launch
            nothing and are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if "index_put" in str(function) and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        ):
            raise AssertionError(f"{function} by a mask waits for the number of its true values")
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            if isinstance(tensor, torch.Tensor) and tensor.device != CUDA:
                raise AssertionError(f"{function} on {tensor.device}; expected {CUDA}")
        if not function.is_view and function.namespace != "prim":
            self.counts[str(function)] += 1
        return out


def fake_engine(
    shape: str, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.bfloat16
) -> tuple[TorchEngine, FakeTensorMode]:
    """Loads an engine the way that `load_torch_engine` does on a GPU, without weights.

    Args:
        shape: name in `model_shapes.SHAPES`.
        monkeypatch: pytest's fixture.
        dtype: precision of the weights.

    Returns:
        The engine, and the mode in which its passes must run.
    """

    def from_pretrained(*_: Any, dtype: torch.dtype, **__: Any) -> Qwen3VLModel:
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with CUDA:  # fake parameters cannot be moved, so the model is made where it belongs
                model = Qwen3VLModel(make_config(shape, _IDS))
        finally:
            torch.set_default_dtype(default)
        monkeypatch.setattr(model, "to", lambda _: model)
        return model

    monkeypatch.setattr(
        load_torch_engine, "Qwen3VLModel", SimpleNamespace(from_pretrained=from_pretrained)
    )
    # Transformers makes no decisions about data while it is traced; these tests want to see them.
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: False)
    monkeypatch.setattr(gpu_engine, "Uploader", lambda _: None)  # a stream needs a real GPU
    # The trials need data.
    monkeypatch.setattr(load_torch_engine, "choose_kernels", lambda *_: None)
    checkpoint = Checkpoint.open(CHECKPOINT)  # for its profile
    settings, mode = Settings(checkpoint=CHECKPOINT), FakeTensorMode()
    with mode:
        engine = load_torch_engine.load_in_precision(checkpoint, settings, CUDA, dtype, fused=True)
    return engine, mode


def run_pass(
    engine: TorchEngine, mode: FakeTensorMode, items: Sequence[Features]
) -> tuple[torch.Tensor, Counter[str]]:
    """Runs one pass.

    Returns:
        The vectors, without data; and the operations of the pass.
    """
    packed = pack(items, engine.input_spec)
    with mode, torch.inference_mode():
        batch = on_device(packed)
        with Operations() as operations:
            vectors = engine.forward_on_device(batch)
    return vectors, operations.counts


def on_device(packed: PackedBatch) -> PackedBatch:
    """The batch with fake CUDA tensors of the same shapes; to be called inside the fake mode."""
    return replace(
        packed,
        **{
            field.name: torch.empty(value.shape, dtype=value.dtype, device=CUDA)
            for field in fields(packed)
            if isinstance(value := getattr(packed, field.name), torch.Tensor)
        },
    )
