"""Which engine computes the vectors of a checkpoint."""

from __future__ import annotations

from lensemble.checkpoint import Checkpoint
from lensemble.config import Settings
from lensemble.encoding import Encoding
from lensemble.graphs import Graphs
from lensemble_client.errors import InvalidInputError


def load(checkpoint: Checkpoint, settings: Settings, device: str = "cpu") -> Encoding:
    """The engine that the settings ask for, with its weights.

    Args:
        checkpoint: The serving checkpoint.
        settings: Engine, precision, threads, budgets.
        device: A torch device, such as `cpu` or `cuda:0`.

    Raises:
        InvalidInputError: The graphs are damaged or another checkpoint's, or ONNX Runtime is not
            installed.
    """
    if settings.engine == "torch":
        from lensemble.encoder import Encoder

        return Encoder.load(checkpoint, settings, device)
    assert settings.onnx is not None
    try:
        from lensemble.onnx_encoder import OnnxEncoder
    except ImportError as error:
        raise InvalidInputError(
            f"{error}; LENSEMBLE_ENGINE=onnx needs `pip install 'lensemble[onnx]'`",
            field="LENSEMBLE_ENGINE",
        ) from None
    return OnnxEncoder(checkpoint, Graphs.open(settings.onnx, checkpoint), settings, device)
