"""Whether PyTorch can compute on a GPU, and that each model asks before it reads weights."""

import warnings

import pytest
import torch

from lensemble import gpu
from lensemble.embedders.clip_encoder import ClipEncoder
from lensemble.embedders.sentence_encoder import SentenceEncoder
from lensemble.gpu import find_gpus, gpu_fault, require_device
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_client import InvalidInputError

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@NO_GPU
def test_missing_gpu_has_a_cause_in_one_line():
    fault = gpu_fault(torch.device("cuda:0"))
    assert fault and "\n" not in fault
    assert find_gpus() == 0


@NO_GPU
def test_model_on_a_missing_gpu_is_refused_with_cause_and_remedy(checkpoint, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-12")
    with pytest.raises(InvalidInputError) as raised:
        Pipeline(Settings(checkpoint=checkpoint, device="cuda"))
    text = str(raised.value)
    assert text.startswith("LENSEMBLE_DEVICE: PyTorch cannot compute on 'cuda' (CUDA_VISIBLE_DEV")
    assert gpu_fault(torch.device("cuda")).rstrip(".") in text
    assert "LENSEMBLE_DEVICE=cpu" in text.rpartition(";")[2]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no kernel image is available\nmore"),
        AssertionError("Torch not compiled with CUDA enabled"),
        Exception("CUDA call failed lazily at initialization"),  # DeferredCudaCallError
    ],
)
def test_every_error_of_pytorch_is_a_fault(monkeypatch, error):
    def fail(*_, **__):
        warnings.warn("the driver is too old", stacklevel=1)
        raise error

    monkeypatch.setattr(gpu.torch, "ones", fail)
    assert gpu_fault(torch.device("cuda:1")) == str(error).partition("\n")[0]


def test_cpu_needs_nothing_and_a_gpu_that_computes_is_accepted(monkeypatch):
    monkeypatch.setattr(gpu, "gpu_fault", lambda device: "")
    require_device("cpu")
    require_device("cuda:3")


@pytest.mark.parametrize("encoder", [ClipEncoder, SentenceEncoder])
def test_other_embedders_ask_too(encoder, monkeypatch):
    module = __import__(encoder.__module__, fromlist=["find_model"])
    monkeypatch.setattr(module, "find_model", lambda *_: "folder")
    monkeypatch.setattr(module, "read_clip_config", lambda *_: None, raising=False)
    monkeypatch.setattr(gpu, "gpu_fault", lambda device: f"no {device}")
    settings = Settings(
        checkpoint="c", clip="m", sentence="m", chat_url="http://h/v1", chat_model="n"
    )
    with pytest.raises(InvalidInputError, match=r"cannot compute on 'cuda:1'.*: no cuda:1;"):
        encoder(settings, "cuda:1")
