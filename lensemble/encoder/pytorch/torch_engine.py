"""Features -> unit vectors, packed: no padding, no leak between items.

The weights and both towers are Transformers' own. What is different is how they are called: all
items of a micro-batch stand in one row (`packing`), attention keeps them apart (`attention`), the
patch embedding is a Linear on uint8 rows, every index comes ready from the CPU, and what is served
has layers of fewer operations (`fused`).
"""

from __future__ import annotations

import logging

import torch
from torch import nn
from transformers import Qwen3VLModel

from lensemble.checkpoint import Checkpoint
from lensemble.encoder import memory, packing, precision, synthetic_items, threads
from lensemble.encoder.engine import BUDGETS, Encoding, Pass
from lensemble.encoder.pass_statistics import Stopwatch
from lensemble.encoder.pooling import normalize, pool
from lensemble.encoder.pytorch import onednn_linear
from lensemble.encoder.pytorch.attention import use_packed_attention
from lensemble.encoder.pytorch.fused_layers import fuse
from lensemble.preprocess.features import Features
from lensemble.profile import ImageProfile
from lensemble.settings import Settings

logger = logging.getLogger(__name__)

_TEXT_TOKENS = 32
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


class Encoder(Encoding):
    """Encodes features with PyTorch.

    Args:
        model: The reference model; it is switched to packed attention and kept.
        checkpoint: Its serving checkpoint.
        batch_tokens: Tokens in one micro-batch.
        batch_patches: Patches in one micro-batch.

    Attributes:
        model: With both towers on packed attention.
        threads: That a pass takes on CPUs.
    """

    engine = "torch"

    def __init__(
        self,
        model: Qwen3VLModel,
        checkpoint: Checkpoint,
        *,
        batch_tokens: int = 4096,
        batch_patches: int = 4096,
    ) -> None:
        super().__init__(
            checkpoint.profile,
            packing.Geometry.of(model.config),
            batch_tokens=batch_tokens,
            batch_patches=batch_patches,
        )
        model.visual.patch_embed = PatchLinear(model.visual.patch_embed.proj, self.profile.image)
        # Transformers' own adds at a boolean mask, which asks the device how many are set.
        model.language_model._deepstack_process = _add_visual
        use_packed_attention(model)
        self.model = model.eval()
        self.threads = threads.Threads(torch.get_num_threads())
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
            what = "bf16 against fp32"
            if not precision.agree(encoder.sound, reference.sound, encoder.geometry, what):
                encoder = reference
        if target.type == "cpu":
            encoder.threads = threads.choose(encoder._pass_over, settings.cpu_threads)
        logger.info("%s on %s in %s", checkpoint.profile.name, target, encoder.dtype)
        return encoder

    @classmethod
    def for_graphs(cls, checkpoint: Checkpoint, dtype: torch.dtype) -> Encoder:
        """Loads the served layers onto the CPU with weights as they lie: for `lensemble_export`.

        Args:
            checkpoint: The serving checkpoint.
            dtype: Of the weights.
        """
        settings = Settings(checkpoint=checkpoint.folder)
        return cls._load(checkpoint, settings, torch.device("cpu"), dtype, True, laid_out=False)

    @classmethod
    def _load(
        cls,
        checkpoint: Checkpoint,
        settings: Settings,
        device: torch.device,
        dtype: torch.dtype,
        fused: bool,
        *,
        laid_out: bool = True,
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
        if laid_out:
            onednn_linear.pack(encoder.model)
        return encoder

    def _pass_over(self, rows: int) -> None:
        """A pass over short texts that have so many tokens, a multiple of `_TEXT_TOKENS`."""
        items = synthetic_items.texts([_TEXT_TOKENS] * (rows // _TEXT_TOKENS), self.geometry)
        self.forward(packing.pack(items, self.geometry))

    def warm_up(self) -> None:
        """See `Encoding.warm_up`.

        GPUs also encode a full micro-batch of each, so that their memory is there before the first
        caller is; a budget that does not fit is then in the log.
        """
        super().warm_up()
        if self.device.type == "cuda":
            side = _PICTURE_SIDE
            few = [min(_TEXT_TOKENS * 16, self._batch_tokens)]
            self.encode(synthetic_items.texts(few * (self._batch_tokens // few[0]), self.geometry))
            pictures = max(1, self._batch_patches // side**2)
            self.encode([synthetic_items.picture(side, self.geometry)] * pictures)

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

    @property
    def precision(self) -> str:
        """See `Encoding.precision`."""
        return str(self.dtype).removeprefix("torch.")

    def compute(self, items: list[Features]) -> Pass:
        """See `Encoding.compute`."""
        packed = self.pack(items)
        self._watch = Stopwatch(self.device)
        tokens, patches = packed.input_ids.numel(), len(packed.patches)
        with self.threads.during(tokens + patches):
            vectors = self.forward(packed).cpu().numpy()
        return Pass(vectors, tokens, patches, self._watch.seconds())

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
