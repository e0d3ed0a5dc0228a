"""The reference: Transformers' own model, on pixels scaled as its own processor scales them."""

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

_CHANNELS = 3
# Pixels of a patch, 16 x 16.
_PATCH_PIXELS = 256
# Frames of a picture: the model takes a still picture as two equal frames.
_FRAMES = 2


class Reference:
    """Transformers' own model in fp32, one item at a time, without packing.

    Args:
        folder: folder of the checkpoint.
        profile: the checkpoint's profile: mean and deviation of pixels, pooling.
        device: device to compute on.
    """

    def __init__(self, folder: Path, profile: Profile, device: torch.device | str = "cpu") -> None:
        self._profile, self._device = profile, device
        model: Any = Qwen3VLModel.from_pretrained(  # nosec B615
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self._model = model.to(device).eval()

    @torch.inference_mode()
    def vectors(self, items: Sequence[Features]) -> NDArray[np.float32]:
        """The vectors (S, D) float32, unit length, of valid items."""
        return np.stack([self._vector(item) for item in items])

    def _vector(self, item: Features) -> NDArray[np.float32]:
        ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
        picture_inputs = {}
        if len(item.patches):
            image = self._profile.image
            mean, std = (
                torch.tensor(values).view(_CHANNELS, 1, 1) for values in (image.mean, image.std)
            )
            rows = torch.from_numpy(item.patches).float().view(-1, _CHANNELS, 1, _PATCH_PIXELS)
            frame = (rows / 255 - mean) / std
            picture_inputs = {
                "pixel_values": frame.expand(-1, -1, _FRAMES, -1).flatten(1),
                "image_grid_thw": torch.from_numpy(item.image_grid_thw.astype(np.int64)),
                "mm_token_type_ids": (ids == self._model.config.image_token_id).int(),
            }
        inputs = {
            name: tensor.to(self._device)
            for name, tensor in {"input_ids": ids, **picture_inputs}.items()
        }
        hidden = self._model(**inputs, use_cache=False).last_hidden_state[0]
        pooled = hidden[-1] if self._profile.pooling == "last_token" else hidden.mean(dim=0)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return unit
