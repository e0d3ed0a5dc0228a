"""A model that cannot encode pictures must not report that it is ready, even if texts work."""

import pytest
import torch

from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.settings import Settings
from lensemble.stages.encode import EncodeStage
from lensemble_client import InternalError

MESSAGE = "Expected all tensors to be on the same device"


@pytest.fixture
def break_pictures(monkeypatch):
    """A function after whose call every pass with a picture fails."""
    forward = TorchEngine.forward

    def failing(self, packed):
        if len(packed.patches):
            raise RuntimeError(MESSAGE)
        return forward(self, packed)

    return lambda: monkeypatch.setattr(TorchEngine, "forward", failing)


def test_model_that_cannot_encode_a_picture_is_not_loaded(checkpoint, break_pictures):
    break_pictures()
    with pytest.raises(InternalError, match=f"texts and a picture: RuntimeError: {MESSAGE}"):
        EncodeStage(Settings(checkpoint=checkpoint, dtype="fp32"), "cpu")


def test_ping_fails_when_only_pictures_fail(checkpoint, break_pictures):
    stage = EncodeStage(Settings(checkpoint=checkpoint, dtype="fp32"), "cpu")
    stage.check()
    break_pictures()
    with pytest.raises(InternalError, match=f"a text and a picture: RuntimeError: {MESSAGE}"):
        stage.check()


def test_ping_fails_when_vectors_are_not_finite(checkpoint, monkeypatch):
    stage = EncodeStage(Settings(checkpoint=checkpoint, dtype="fp32"), "cpu")
    monkeypatch.setattr(
        TorchEngine,
        "forward",
        lambda _, packed: torch.full((len(packed.cu_seqlens) - 1, 8), 0.0) / 0,
    )
    with pytest.raises(InternalError, match="not finite"):
        stage.check()
