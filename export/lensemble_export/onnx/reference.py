"""The reference for features: Transformers' own model on pixels as its processor gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3VLModel

from lensemble.preprocess.features import Features
from lensemble.profile import Profile

_RGB = 3
_PIXELS = 256
_FRAMES = 2


class Reference:
    """Transformers' own model in fp32, one item at a time, without packing.

    Args:
        folder: Of the checkpoint.
        profile: Its profile: pixels' mean and deviation, pooling.
        device: Where to compute.
    """

    def __init__(self, folder: Path, profile: Profile, device: torch.device | str = "cpu") -> None:
        self._profile, self._device = profile, device
        model: Any = Qwen3VLModel.from_pretrained(  # nosec B615
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self._model = model.to(device).eval()

    @torch.inference_mode()
    def vectors(self, items: Sequence[Features]) -> NDArray[np.float32]:
        """Vectors (S, D) float32, unit length, of items that are sound."""
        return np.stack([self._vector(item) for item in items])

    def _vector(self, item: Features) -> NDArray[np.float32]:
        ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
        given = {}
        if len(item.patches):
            image = self._profile.image
            mean, std = (torch.tensor(each).view(_RGB, 1, 1) for each in (image.mean, image.std))
            rows = torch.from_numpy(item.patches).float().view(-1, _RGB, 1, _PIXELS)
            frame = (rows / 255 - mean) / std
            given = {
                "pixel_values": frame.expand(-1, -1, _FRAMES, -1).flatten(1),
                "image_grid_thw": torch.from_numpy(item.image_grid_thw.astype(np.int64)),
                "mm_token_type_ids": (ids == self._model.config.image_token_id).int(),
            }
        inputs = {name: one.to(self._device) for name, one in {"input_ids": ids, **given}.items()}
        hidden = self._model(**inputs, use_cache=False).last_hidden_state[0]
        pooled = hidden[-1] if self._profile.pooling == "last_token" else hidden.mean(dim=0)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return unit
