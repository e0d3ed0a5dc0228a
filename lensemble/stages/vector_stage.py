"""What the stages that make vectors share: `encode`, `clip` and `sentence`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lensemble.settings import Settings
from lensemble.vectors import Vector
from lensemble_contract import contract
from lensemble_contract.items import Rows


def prepare_process(settings: Settings) -> None:
    """Prepares this process for loading a model and computing with it.

    Args:
        settings: number of CPU threads.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # it would fill the server's log
    torch.set_num_threads(settings.cpu_threads)


def vector_rows(vectors: Sequence[Vector], profile_hash: str) -> Rows:
    """The output tensors with the vectors of one request and the hash of their profile.

    Args:
        vectors: for each row, its vector (D,) float32.
        profile_hash: hash of the profile under which they were made.
    """
    return {
        contract.EMBEDDING.name: np.stack(vectors),
        contract.VECTOR_PROFILE.name: np.full((len(vectors), 1), profile_hash.encode(), np.object_),
    }


def embedder_info(embedder: str, model: str, encoder: Any) -> dict[str, str]:
    """Facts about the encoder of `clip` or `hybrid` for operators; see `Stage.info`.

    Args:
        embedder: name of the embedder.
        model: folder or Hugging Face id of the model.
        encoder: an object with a profile, a dimension, a dtype and a device.
    """
    return {
        "embedder": embedder,
        "model": model,
        "profile": encoder.profile,
        "dimension": str(encoder.dimension),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "device": str(encoder.device),
    }
