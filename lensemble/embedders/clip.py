"""CLIP: texts and pictures -> unit vectors of one space.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv:2103.00020). Model and weights are Transformers' `CLIPModel`. CLIP embeds a text or a
picture; an item of several is, here, the mean of their unit vectors, each counted once, at unit
length again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lensemble.embedders import model_files
from lensemble.embedders.clip_preprocess import FIELD, ClipFeatures, image_processor
from lensemble.encoder.micro_batches import encode_with_halving, split_by_padded_cost
from lensemble.encoder.pooling import normalize
from lensemble.encoder.precision import precisions_to_try
from lensemble.settings import Settings
from lensemble.vectors import Vector
from lensemble_contract import contract
from lensemble_contract.errors import InternalError, InvalidInputError, LensembleError

logger = logging.getLogger(__name__)

BUDGETS = {"cpu": 4096, "cuda": 65_536}
"""Tokens of one forward pass of either tower, filling included."""

Found = list[Vector | LensembleError]


class ClipEncoder:
    """Encodes features with one CLIP checkpoint.

    Args:
        settings: Checkpoint, precision, budgets.
        device: A torch device, such as `cpu` or `cuda:0`.

    Attributes:
        profile: Hash of what the vectors depend on.
        dimension: Length of a vector.

    Raises:
        InvalidInputError: The checkpoint is not one of CLIP, or lacks weights.
    """

    def __init__(self, settings: Settings, device: str) -> None:
        from transformers import CLIPModel

        assert settings.clip is not None
        folder = model_files.find(settings.clip, FIELD)
        if (
            kind := model_files.read_json(folder / "config.json", FIELD).get("model_type")
        ) != "clip":
            raise InvalidInputError(f"a model of type {kind!r}; expected 'clip'", field=FIELD)
        self.device = torch.device(device)
        self.dtype = precisions_to_try(settings.dtype, self.device)[-1]
        model, found = CLIPModel.from_pretrained(  # nosec B615
            folder,
            dtype=self.dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(found["missing_keys"]):
            raise InvalidInputError(
                f"{len(missing)} weights are missing, such as {missing[0]!r}", field=FIELD
            )
        self._model: Any = model.eval().to(self.device)
        self.dimension: int = model.config.projection_dim
        vision = model.config.vision_config
        self._tokens_of_picture = (vision.image_size // vision.patch_size) ** 2 + 1
        self._vocabulary: int = model.config.text_config.vocab_size
        self._positions: int = model.config.text_config.max_position_embeddings
        budget = BUDGETS[self.device.type]
        self._text_budget = settings.batch_tokens or budget
        self._picture_budget = settings.batch_patches or budget
        self._scale, self._shift = _scaling(image_processor(folder), self.device)
        self.profile = model_files.made_under(embedder="clip", content=model_files.content(folder))
        logger.info("CLIP %s on %s in %s", settings.clip, self.device, self.dtype)

    def check(self, item: ClipFeatures) -> None:
        """Refuses features that no preprocessing made.

        Raises:
            InvalidInputError: No text and no picture, or ids or pixels that the model has not.
        """
        ids, side = item.input_ids, self._model.config.vision_config.image_size
        if not len(ids) and not len(item.pixels):
            raise InvalidInputError("the item is empty", field=contract.INPUT_IDS.name)
        if len(ids) > self._positions or ((ids < 0) | (ids >= self._vocabulary)).any():
            raise InvalidInputError(
                f"expected at most {self._positions} ids from 0 to {self._vocabulary - 1}",
                field=contract.INPUT_IDS.name,
            )
        if len(item.pixels) and item.pixels.shape[1:] != (side, side, 3):
            raise InvalidInputError(
                f"{item.pixels.shape}; expected (n, {side}, {side}, 3)", field=contract.PIXELS.name
            )

    def encode(self, items: Sequence[ClipFeatures]) -> list[Vector | LensembleError]:
        """Encodes items: all texts in one pass, all pictures in another, within the budgets.

        Args:
            items: Any number, with any number of pictures each; each passes `check`.

        Returns:
            For each item, in order: its vector (D,), float32, unit length, or its error.
        """
        texts = [(n, item.input_ids) for n, item in enumerate(items) if len(item.input_ids)]
        pictures = [(n, picture) for n, item in enumerate(items) for picture in item.pixels]
        lengths = [len(ids) for _, ids in texts]
        found: list[Found] = [[] for _ in items]
        parts = (
            (texts, lengths, self._text_budget, self._texts),
            (pictures, [self._tokens_of_picture] * len(pictures), self._picture_budget, self._seen),
        )
        for rows, costs, budget, tower in parts:
            made = _in_batches([row for _, row in rows], costs, budget, tower)
            for (n, _), vector in zip(rows, made, strict=True):
                found[n].append(vector)
        return [_fused(vectors) for vectors in found]

    @torch.inference_mode()
    def _texts(self, texts: Sequence[NDArray[np.int32]]) -> Vector:
        """Ids (T,) each -> (N, D) float32, unit length."""
        longest = max(map(len, texts))
        # Filled with each text's last token: the model looks for the first that ends a text.
        ids = np.stack([np.pad(text, (0, longest - len(text)), mode="edge") for text in texts])
        real = np.arange(longest) < np.array([len(text) for text in texts])[:, None]
        out = self._model.get_text_features(
            input_ids=torch.from_numpy(ids.astype(np.int64)).to(self.device),
            attention_mask=torch.from_numpy(real.astype(np.int64)).to(self.device),
        )
        return normalize(out.pooler_output.float()).cpu().numpy()

    @torch.inference_mode()
    def _seen(self, pictures: Sequence[NDArray[np.uint8]]) -> Vector:
        """Pixels (H, W, 3) uint8 each -> (N, D) float32, unit length."""
        pixels = torch.from_numpy(np.stack(pictures)).to(self.device)
        scaled = pixels.float() * self._scale - self._shift
        out = self._model.get_image_features(scaled.permute(0, 3, 1, 2).to(self.dtype))
        return normalize(out.pooler_output.float()).cpu().numpy()


def _scaling(processor: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift (3,) of (x * factor - mean) / std, as far as the checkpoint wants them."""
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    mean = torch.zeros(3)
    std = torch.ones(3)
    if processor.do_normalize:
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    return (factor / std).to(device), (mean / std).to(device)


def _in_batches(
    rows: Sequence[Any],
    costs: Sequence[int],
    budget: int,
    tower: Callable[[Sequence[Any]], Vector],
) -> Found:
    results: dict[int, Vector | LensembleError] = {}
    for part in split_by_padded_cost(costs, budget):
        results.update(zip(part, encode_with_halving([rows[n] for n in part], tower), strict=True))
    return [results[n] for n in range(len(rows))]


def _fused(vectors: Found) -> Vector | LensembleError:
    """Mean of unit vectors at unit length; the first error, if there is one."""
    sound = []
    for vector in vectors:
        if isinstance(vector, LensembleError):
            return vector
        sound.append(vector)
    if len(sound) == 1:
        return sound[0]
    mean = np.mean(sound, axis=0)
    length = np.linalg.norm(mean)
    if not length:
        return InternalError("its vectors cancel each other out")
    fused: Vector = mean / length
    return fused
