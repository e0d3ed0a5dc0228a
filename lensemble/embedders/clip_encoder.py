"""Encodes texts and pictures with CLIP: unit vectors in one space.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv:2103.00020). Model and weights are Transformers' `CLIPModel`. CLIP embeds one text or one
picture. The vector of an item with several parts is the mean of their unit vectors, normalized
again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lensemble.embedders.clip_preprocessor import (
    CLIP_VARIABLE,
    ClipFeatures,
    load_image_processor,
    read_clip_config,
    tokens_per_picture,
)
from lensemble.embedders.model_files import find_model, model_content_hash, profile_hash
from lensemble.encoder.micro_batches.halving import encode_with_halving
from lensemble.encoder.micro_batches.split import split_by_padded_cost
from lensemble.encoder.pooling import normalize
from lensemble.encoder.precision import trusted_precision
from lensemble.gpu import require_device
from lensemble.settings import Settings
from lensemble.vectors import Vector
from lensemble_contract import contract
from lensemble_contract.errors import InternalError, InvalidInputError, LensembleError

logger = logging.getLogger(__name__)

# Device type -> tokens of one pass of either tower, with padding.
BUDGETS = {"cpu": 4096, "cuda": 65_536}

Results = list[Vector | LensembleError]


class ClipEncoder:
    """Encodes features with one CLIP checkpoint.

    Args:
        settings: checkpoint, precision and budgets.
        device: a torch device, such as `cpu` or `cuda:0`.

    Attributes:
        profile: hash of everything that changes a vector.
        dimension: length D of a vector.

    Raises:
        InvalidInputError: The checkpoint is not one of CLIP, or lacks weights, or PyTorch cannot
            compute on the device.
    """

    def __init__(self, settings: Settings, device: str) -> None:
        from transformers import CLIPModel

        assert settings.clip is not None
        folder = find_model(settings.clip, CLIP_VARIABLE)
        read_clip_config(folder)
        require_device(device)
        self.device = torch.device(device)
        self.dtype = trusted_precision(settings.dtype, self.device)
        model, loading = CLIPModel.from_pretrained(  # nosec B615
            folder,
            dtype=self.dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if missing := sorted(loading["missing_keys"]):
            raise InvalidInputError(
                f"{len(missing)} weights are missing, such as {missing[0]!r}", field=CLIP_VARIABLE
            )
        self._model: Any = model.eval().to(self.device)
        self.dimension: int = model.config.projection_dim
        vision = model.config.vision_config
        self._tokens_per_picture = tokens_per_picture(vision.image_size, vision.patch_size)
        self._vocab_size: int = model.config.text_config.vocab_size
        self._max_tokens: int = model.config.text_config.max_position_embeddings
        budget = BUDGETS[self.device.type]
        self._text_budget = settings.batch_tokens or budget
        self._picture_budget = settings.batch_patches or budget
        self._scale, self._shift = _scale_and_shift(load_image_processor(folder), self.device)
        self.profile = profile_hash(embedder="clip", content=model_content_hash(folder))
        logger.info("CLIP %s on %s in %s", settings.clip, self.device, self.dtype)

    def check(self, item: ClipFeatures) -> None:
        """Refuses features that `ClipPreprocessor` cannot have made.

        Raises:
            InvalidInputError: There is neither a text nor a picture, or ids or pixels do not fit
                the model.
        """
        ids, side = item.input_ids, self._model.config.vision_config.image_size
        if not len(ids) and not len(item.pixels):
            raise InvalidInputError("the item is empty", field=contract.INPUT_IDS.name)
        if len(ids) > self._max_tokens or ((ids < 0) | (ids >= self._vocab_size)).any():
            raise InvalidInputError(
                f"expected at most {self._max_tokens} ids from 0 to {self._vocab_size - 1}",
                field=contract.INPUT_IDS.name,
            )
        if len(item.pixels) and item.pixels.shape[1:] != (side, side, 3):
            raise InvalidInputError(
                f"{item.pixels.shape}; expected (n, {side}, {side}, 3)", field=contract.PIXELS.name
            )

    def encode(self, items: Sequence[ClipFeatures]) -> list[Vector | LensembleError]:
        """Encodes all texts together and all pictures together, within the budgets.

        Args:
            items: any number of items that `check` has accepted.

        Returns:
            For each item, in order, its vector (D,), float32, unit length, or its error.
        """
        texts = [(n, item.input_ids) for n, item in enumerate(items) if len(item.input_ids)]
        text_costs = [len(ids) for _, ids in texts]
        pictures = [(n, picture) for n, item in enumerate(items) for picture in item.pixels]
        picture_costs = [self._tokens_per_picture] * len(pictures)
        parts: list[Results] = [[] for _ in items]
        for rows, costs, budget, tower in (
            (texts, text_costs, self._text_budget, self._encode_texts),
            (pictures, picture_costs, self._picture_budget, self._encode_pictures),
        ):
            results = _encode_in_batches([row for _, row in rows], costs, budget, tower)
            for (n, _), result in zip(rows, results, strict=True):
                parts[n].append(result)
        return [_mean_vector(results) for results in parts]

    @torch.inference_mode()
    def _encode_texts(self, texts: Sequence[NDArray[np.int32]]) -> Vector:
        """Ids (T,) each -> (N, D) float32, unit length."""
        longest = max(map(len, texts))
        # A text is padded with its last token, the end token: the model pools at the first one.
        ids = np.stack([np.pad(text, (0, longest - len(text)), mode="edge") for text in texts])
        is_token = np.arange(longest) < np.array([len(text) for text in texts])[:, None]
        out = self._model.get_text_features(
            input_ids=torch.from_numpy(ids.astype(np.int64)).to(self.device),
            attention_mask=torch.from_numpy(is_token.astype(np.int64)).to(self.device),
        )
        return normalize(out.pooler_output.float()).cpu().numpy()

    @torch.inference_mode()
    def _encode_pictures(self, pictures: Sequence[NDArray[np.uint8]]) -> Vector:
        """Pixels (H, W, 3) uint8 each -> (N, D) float32, unit length."""
        pixels = torch.from_numpy(np.stack(pictures)).to(self.device)
        scaled = pixels.float() * self._scale - self._shift
        out = self._model.get_image_features(scaled.permute(0, 3, 1, 2).to(self.dtype))
        return normalize(out.pooler_output.float()).cpu().numpy()


def _scale_and_shift(processor: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns scale and shift, (3,) each: the processor makes x * scale - shift of a pixel x."""
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    mean = torch.zeros(3)
    std = torch.ones(3)
    if processor.do_normalize:
        mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    return (factor / std).to(device), (mean / std).to(device)


def _encode_in_batches(
    rows: Sequence[Any],
    costs: Sequence[int],
    budget: int,
    tower: Callable[[Sequence[Any]], Vector],
) -> Results:
    results: dict[int, Vector | LensembleError] = {}
    for batch in split_by_padded_cost(costs, budget):
        encoded = encode_with_halving([rows[n] for n in batch], tower)
        results.update(zip(batch, encoded, strict=True))
    return [results[n] for n in range(len(rows))]


def _mean_vector(results: Results) -> Vector | LensembleError:
    """Returns the mean of unit vectors, normalized again, or the first error if there is one."""
    vectors = []
    for result in results:
        if isinstance(result, LensembleError):
            return result
        vectors.append(result)
    if len(vectors) == 1:
        return vectors[0]
    mean = np.mean(vectors, axis=0)
    length = np.linalg.norm(mean)
    if not length:
        return InternalError("the vectors of the item's parts cancel each other out")
    normalized: Vector = mean / length
    return normalized
