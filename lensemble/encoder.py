"""Features -> unit vectors, packed: no padding, no leak between items.

The weights and both towers are Transformers' own. What is different is how they are called: all
items of a micro-batch stand in one row (`packing`), attention keeps them apart (`attention`), the
patch embedding is a Linear on uint8 rows, every index comes ready from the CPU, and what is served
has layers of fewer operations (`fused`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import Qwen3VLModel

from lensemble import memory, packing, precision, probe, product, threads
from lensemble.attention import use_packed_attention
from lensemble.checkpoint import Checkpoint
from lensemble.config import Settings
from lensemble.deadline import is_over, too_late
from lensemble.features import Features
from lensemble.fused import fuse
from lensemble.pooling import normalize, pool
from lensemble.profile import ImageProfile
from lensemble.together import is_out_of_memory
from lensemble.work import Stopwatch, Work
from lensemble_client import contract
from lensemble_client.errors import InternalError, LensembleError, OverloadedError

logger = logging.getLogger(__name__)

Embedding = NDArray[np.float32]

BUDGETS = {"cpu": (4096, 4096), "cuda": (16_384, 32_768)}
"""Tokens and patches of a micro-batch. On CPUs more only falls out of the cache; see
docs/decisions.md."""

_TEXT_TOKENS = 32
_PING_TOKENS = 4
_PICTURE_SIDE = 32
"""Patches: 512 pixels."""


class PatchLinear(nn.Module):
    """The vision tower's patch embedding, on uint8 rows of one frame.

    The reference scales and normalises pixels, repeats the still frame, and applies a Conv3d whose
    kernel is as large as its input. For two equal frames that is a Linear whose weight is the
    kernel summed over its two frames: half the work, an eighth of the input.

    Args:
        conv: The reference's Conv3d, kernel (2, 16, 16).
        image: Mean and standard deviation of the profile.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, conv: nn.Conv3d, image: ImageProfile) -> None:
        super().__init__()
        weight = conv.weight.detach().float().sum(dim=2).flatten(1)  # (D, 768)
        self.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
        self.bias = conv.bias
        pixels = weight.shape[1] // 3  # a row is red, then green, then blue
        mean = torch.tensor(image.mean).repeat_interleave(pixels)
        std = torch.tensor(image.std).repeat_interleave(pixels)
        # (x / 255 - mean) / std
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(P, 768) uint8 -> (P, D)."""
        pixels = patches.float() * self.scale - self.shift
        return nn.functional.linear(pixels.to(self.weight.dtype), self.weight, self.bias)


class Encoder:
    """Encodes features with the model of one serving checkpoint.

    Args:
        model: The reference model; it is switched to packed attention and kept.
        checkpoint: Its serving checkpoint.
        batch_tokens: Tokens in one micro-batch.
        batch_patches: Patches in one micro-batch.

    Attributes:
        model: With both towers on packed attention.
        geometry: Its numbers.
        threads: That a pass takes on CPUs.
        work: What was done so far.
    """

    def __init__(
        self,
        model: Qwen3VLModel,
        checkpoint: Checkpoint,
        *,
        batch_tokens: int = 4096,
        batch_patches: int = 4096,
    ) -> None:
        self.profile = checkpoint.profile
        self._batch_tokens, self._batch_patches = batch_tokens, batch_patches
        config = model.config
        self.geometry = packing.Geometry(
            vocab_size=config.text_config.vocab_size,
            image_token_id=config.image_token_id,
            merge_size=config.vision_config.spatial_merge_size,
            num_grid_per_side=model.visual.num_grid_per_side,
        )
        model.visual.patch_embed = PatchLinear(model.visual.patch_embed.proj, self.profile.image)
        # Transformers' own adds at a boolean mask, which asks the device how many are set.
        model.language_model._deepstack_process = _add_visual
        use_packed_attention(model)
        self.model = model.eval()
        self.threads = threads.Threads(torch.get_num_threads())
        self.work = Work()
        self._watch = Stopwatch(torch.device("cpu"))

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        settings: Settings,
        device: str = "cpu",
        *,
        fused: bool = True,
    ) -> Encoder:
        """Loads the weights onto a device; on CPUs this process then keeps memory that it frees.

        Args:
            checkpoint: The serving checkpoint.
            settings: Precision, threads and budgets.
            device: A torch device, such as `cpu` or `cuda:0`.
            fused: With the layers that are served. Training needs Transformers' own, which have
                gradients and the names that a checkpoint has.

        Raises:
            ValueError: `fused`, and the layers are not those of a Qwen3-VL.
        """
        target = torch.device(device)
        if target.type == "cpu":
            memory.keep_freed()
        best, *others = precision.candidates(settings.dtype, target)
        encoder = cls._load(checkpoint, settings, target, best, fused)
        if others:
            reference = cls._load(checkpoint, settings, target, others[-1], fused)
            if not precision.agree(encoder._sound, reference._sound, encoder.geometry):
                encoder = reference
        if target.type == "cpu":
            encoder.threads = threads.choose(encoder._pass_over, settings.cpu_threads)
        logger.info("%s on %s in %s", checkpoint.profile.name, target, encoder.dtype)
        return encoder

    @classmethod
    def _load(
        cls,
        checkpoint: Checkpoint,
        settings: Settings,
        device: torch.device,
        dtype: torch.dtype,
        fused: bool,
    ) -> Encoder:
        model = Qwen3VLModel.from_pretrained(  # nosec B615
            checkpoint.folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        if fused:
            fuse(model)
        tokens, patches = BUDGETS[device.type]
        encoder = cls(
            model.to(device),
            checkpoint,
            batch_tokens=settings.batch_tokens or tokens,
            batch_patches=settings.batch_patches or patches,
        )
        product.pack(encoder.model)
        return encoder

    def _pass_over(self, rows: int) -> None:
        """A pass over short texts that have so many tokens, a multiple of `_TEXT_TOKENS`."""
        items = probe.texts([_TEXT_TOKENS] * (rows // _TEXT_TOKENS), self.geometry)
        self.forward(packing.pack(items, self.geometry))

    def warm_up(self) -> None:
        """Encodes what takes longer the first time: texts and a picture, alone and together.

        GPUs also encode a full micro-batch of each, so that their memory is there before the first
        caller is; a budget that does not fit is then in the log.
        """
        first = probe.probe(self.geometry)
        for items in (first[:1], first):
            self.encode(items)
        if self.device.type == "cuda":
            side = _PICTURE_SIDE
            few = [min(_TEXT_TOKENS * 16, self._batch_tokens)]
            self.encode(probe.texts(few * (self._batch_tokens // few[0]), self.geometry))
            pictures = max(1, self._batch_patches // side**2)
            self.encode([probe.picture(side, self.geometry)] * pictures)

    def check(self) -> None:
        """Encodes a text of a few tokens.

        Raises:
            LensembleError: That failed.
        """
        (result,) = self.encode(probe.texts([_PING_TOKENS], self.geometry))
        if isinstance(result, LensembleError):
            raise result

    def costs(self, item: Features) -> tuple[float, float]:
        """Parts of a micro-batch's budgets that an item takes: of tokens, of patches."""
        return (
            len(item.input_ids) / self._batch_tokens,
            len(item.patches) / self._batch_patches,
        )

    def _sound(self, items: Sequence[Features]) -> list[Embedding]:
        """Vectors of items that cannot fail."""
        return [result for result in self.encode(items) if not isinstance(result, LensembleError)]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def encode(
        self,
        items: Sequence[Features],
        dimensions: Sequence[int | None] | None = None,
        *,
        deadlines: Sequence[int] | None = None,
    ) -> list[Embedding | LensembleError]:
        """Encodes items; each result is a vector or that item's own error.

        Args:
            items: Any number of items of any size.
            dimensions: Per item, the Matryoshka length; None is the profile's full one.
            deadlines: Per item, as of `contract.DEADLINE`; looked at before each micro-batch.

        Returns:
            For each item, in order: its vector (D,), float32, unit length, or its error.
        """
        wanted = dimensions if dimensions is not None else [None] * len(items)
        results: list[Embedding | LensembleError | None] = [None] * len(items)
        sound: list[int] = []
        for n, item in enumerate(items):
            try:
                self.profile.check_dimensions(wanted[n])
                packing.check(item, self.geometry)
                sound.append(n)
            except LensembleError as error:
                results[n] = error
        parts = packing.micro_batches(
            [items[n] for n in sound], self._batch_tokens, self._batch_patches
        )
        for part in parts:
            indices = [sound[m] for m in part]
            late = [n for n in indices if deadlines is not None and is_over(deadlines[n])]
            for n in late:
                results[n] = too_late(contract.QWEN3_VL.name)
            indices = [n for n in indices if n not in late]
            encoded = self._encode_part([items[n] for n in indices]) if indices else []
            for n, result in zip(indices, encoded, strict=True):
                results[n] = cut(result, wanted[n])
        return cast(list[Embedding | LensembleError], results)  # every place is filled by now

    def _encode_part(self, items: list[Features]) -> list[Embedding | LensembleError]:
        """One micro-batch; halved and tried again if it does not fit or fails."""
        try:
            packed = self.pack(items)
            self._watch = Stopwatch(self.device)
            tokens, patches = packed.input_ids.numel(), len(packed.patches)
            with self.threads.during(tokens + patches):
                vectors = self.forward(packed).cpu().numpy()
            self.work.add(
                passes=1,
                items=len(items),
                tokens=tokens,
                patches=patches,
                budget=max(tokens / self._batch_tokens, patches / self._batch_patches),
                **dict(zip(("vision_s", "text_s"), self._watch.seconds(), strict=False)),
            )
            return [
                vector if np.isfinite(vector).all() else InternalError("the vector is not finite")
                for vector in vectors
            ]
        except Exception as error:
            if len(items) == 1:
                return [_failed_alone(items[0], error)]
            logger.warning("%d items failed together, halving: %s", len(items), str(error))
        # Outside of the `except`: inside, the error would hold on to the failed pass's tensors.
        self._release()
        half = len(items) // 2
        return self._encode_part(items[:half]) + self._encode_part(items[half:])

    def _release(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def pack(self, items: Sequence[Features]) -> packing.Packed:
        """Packs items the way that costs this device least.

        On CPUs the prompt's beginning, the same in all items, is computed once: of a short text's
        tokens it is more than half.

        Args:
            items: At least one, that `packing.check` has passed.
        """
        packed = packing.pack(items, self.geometry)
        if len(items) == 1 or self.device.type != "cpu" or self.profile.pooling != "last_token":
            return packed
        return packing.share_prefix(packed, packing.common_prefix(items, self.geometry))

    @torch.inference_mode()
    def forward(self, packed: packing.Packed) -> torch.Tensor:
        """Both towers, pooling, normalisation.

        Args:
            packed: On the CPU.

        Returns:
            (S, D) float32, unit length, on the model's device.
        """
        return self.differentiable(packed)

    def differentiable(self, packed: packing.Packed) -> torch.Tensor:
        """`forward`, through which gradients flow if the layers are Transformers' own.

        Args:
            packed: On the CPU; there its prefix may be shared (`packing.share_prefix`).

        Returns:
            (S, D) float32, unit length, on the model's device.
        """
        pack = packed.to(self.device)
        self._watch.mark()
        hidden: torch.Tensor = self.model.language_model.embed_tokens(pack.input_ids)
        deepstack: list[torch.Tensor] | None = None
        if len(pack.patches):
            seen = self.model.visual(
                pack.patches,
                grid_thw=pack.grid_thw,
                cu_seqlens=pack.vision_cu_seqlens,
                max_seqlen=pack.vision_max_seqlen,
                position_ids=pack.vision_position_ids,
                interp_indices=pack.interp_indices,
                interp_weights=pack.interp_weights,
                return_dict=True,
            )
            hidden = hidden.index_copy(
                1, pack.visual_positions, seen.pooler_output[None].to(hidden.dtype)
            )
            deepstack = seen.deepstack_features
        self._watch.mark()
        out = self.model.language_model(
            inputs_embeds=hidden,
            position_ids=pack.position_ids,
            attention_mask=None,
            use_cache=False,
            visual_pos_masks=pack.visual_positions,
            deepstack_visual_embeds=deepstack,
            cu_seq_lens_q=pack.cu_seqlens,
            cu_seq_lens_k=pack.cu_seqlens,
            max_length_q=pack.max_seqlen,
            max_length_k=pack.max_seqlen,
        )
        self._watch.mark()
        return normalize(pool(out.last_hidden_state[0], pack.cu_seqlens, self.profile.pooling))


def _add_visual(
    hidden: torch.Tensor, positions: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """DeepStack: adds pictures' features (V, H) to hidden states (1, L, H) at their places (V,)."""
    return hidden.index_add(1, positions, features[None].to(hidden.dtype))


def cut(result: Embedding | LensembleError, dimensions: int | None) -> Any:
    """A full vector (D,) cut to its first `dimensions` and normalised again; errors pass."""
    if isinstance(result, LensembleError) or dimensions in (None, len(result)):
        return result
    return normalize(torch.from_numpy(result[None, :dimensions].copy()))[0].numpy()


def _failed_alone(item: Features, error: Exception) -> LensembleError:
    if is_out_of_memory(error):
        return OverloadedError(
            f"an item of {len(item.input_ids)} tokens and {len(item.patches)} patches does not "
            "fit into memory, even alone; send a smaller picture",
            field=contract.IMAGE.name if len(item.patches) else contract.TEXT.name,
        )
    logger.error("an item failed alone", exc_info=error)
    return InternalError(f"encoding failed: {type(error).__name__}")
