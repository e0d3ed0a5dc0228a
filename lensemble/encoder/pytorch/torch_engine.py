"""The engine on PyTorch: features become unit vectors, without padding.

The model is Transformers' own, with five changes. All items of a micro-batch are in one row
(`packing`), attention keeps them apart (`attention.packed_attention`), the patch embedding is a
linear layer on uint8 rows (`patch_embedding`), every index is computed on the CPU beforehand, and
the layers have fewer operations (`fused_layers`).

`load_torch_engine` loads the weights. `gpu_engine` has what a GPU does in another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Qwen3VLModel

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.engine import BUDGETS, Engine, PassResult
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.packing import PackedBatch, pack
from lensemble.encoder.pass_statistics import TowerTimer
from lensemble.encoder.pooling import normalize, pool
from lensemble.encoder.pytorch.attention.packed_attention import use_packed_attention
from lensemble.encoder.pytorch.fused_layers import add_deepstack_features
from lensemble.encoder.pytorch.patch_embedding import PatchEmbedding
from lensemble.encoder.pytorch.thread_count import ThreadCount
from lensemble.encoder.synthetic_items import synthetic_texts
from lensemble.preprocess.features import Features

# Length of the synthetic texts whose passes are timed.
TIMED_TEXT_TOKENS = 32


class TorchEngine(Engine):
    """Encodes features with PyTorch on the CPU.

    Args:
        model: the reference model. The engine uses it and not a copy, so it is changed: it gets
            packed attention and another patch embedding.
        checkpoint: the model's serving checkpoint.
        batch_tokens: largest number of tokens in one micro-batch.
        batch_patches: largest number of patches in one micro-batch.

    Attributes:
        model: the model, with both towers on packed attention.
        thread_count: number of CPU threads of a pass.
    """

    engine_name = "torch"

    def __init__(
        self,
        model: Qwen3VLModel,
        checkpoint: Checkpoint,
        *,
        batch_tokens: int = BUDGETS["cpu"][0],
        batch_patches: int = BUDGETS["cpu"][1],
    ) -> None:
        super().__init__(
            checkpoint.profile,
            InputSpec.from_config(model.config),
            batch_tokens=batch_tokens,
            batch_patches=batch_patches,
        )
        patch_embed = PatchEmbedding(model.visual.patch_embed.proj, self.profile.image)
        model.visual.patch_embed = patch_embed
        model.language_model._deepstack_process = add_deepstack_features
        use_packed_attention(model)
        self.model = model.eval()
        self.thread_count = ThreadCount(torch.get_num_threads())
        # Every pass gets a new timer. `forward` needs one without a pass, too; its times are never
        # read.
        self._timer = TowerTimer(torch.device("cpu"))

    @property
    def device(self) -> torch.device:
        """See `Engine.device`."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def precision(self) -> str:
        """See `Engine.precision`."""
        return str(self.dtype).removeprefix("torch.")

    def run_pass(self, items: Sequence[Features]) -> PassResult:
        """See `Engine.run_pass`."""
        packed = self.pack(items)
        self._timer = TowerTimer(self.device)
        tokens, patches = packed.input_ids.numel(), len(packed.patches)
        with self.thread_count.applied_to(tokens + patches):
            vectors = self.forward(packed).numpy()
        return PassResult(vectors, tokens, patches, self._timer.seconds())

    @torch.inference_mode()
    def forward(self, packed: PackedBatch) -> torch.Tensor:
        """Runs both towers, pooling and normalization.

        Args:
            packed: a batch on the CPU.

        Returns:
            (S, D) float32, unit length, on the model's device.
        """
        return self.forward_on_device(packed)

    def forward_with_gradients(self, packed: PackedBatch) -> torch.Tensor:
        """Does the same as `forward`, with gradients if the layers are Transformers' own.

        Args:
            packed: a batch on the CPU. If the model is on the CPU too, the batch may have a shared
                prefix (`share_prefix`).

        Returns:
            (S, D) float32, unit length, on the model's device.
        """
        return self.forward_on_device(packed)

    def forward_on_device(self, batch: PackedBatch) -> torch.Tensor:
        """Does the same as `forward_with_gradients` with a batch on the model's device.

        On a GPU this only launches the work: no operation waits for a result. Tests run it on fake
        CUDA tensors.
        """
        self._timer.mark()
        hidden: torch.Tensor = self.model.language_model.embed_tokens(batch.input_ids)
        deepstack: list[torch.Tensor] | None = None
        if len(batch.patches):
            visual = self.model.visual(
                batch.patches,
                grid_thw=batch.grid_thw,
                cu_seqlens=batch.vision_cu_seqlens,
                max_seqlen=batch.vision_max_seqlen,
                position_ids=batch.vision_position_ids,
                interp_indices=batch.interp_indices,
                interp_weights=batch.interp_weights,
                return_dict=True,
            )
            hidden = hidden.index_copy(
                1, batch.visual_positions, visual.pooler_output[None].to(hidden.dtype)
            )
            deepstack = visual.deepstack_features
        self._timer.mark()
        vectors = self._run_text_tower(
            hidden,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            visual_pos_masks=batch.visual_positions,  # no mask: see `add_deepstack_features`
            deepstack_visual_embeds=deepstack,
        )
        self._timer.mark()
        return vectors

    def run_timed_texts(self, rows: int) -> None:
        """Runs a pass over texts of `TIMED_TEXT_TOKENS` tokens with about `rows` tokens together.

        Args:
            rows: number of tokens.
        """
        lengths = [TIMED_TEXT_TOKENS] * (rows // TIMED_TEXT_TOKENS)
        # Not `self.pack`: a shared prefix would leave fewer tokens.
        self.forward(pack(synthetic_texts(lengths, self.input_spec), self.input_spec))

    def _run_text_tower(
        self,
        hidden: torch.Tensor,
        position_ids: torch.Tensor,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        **pictures: Any,
    ) -> torch.Tensor:
        """Token embeddings (1, L, H) -> unit vectors (S, D)."""
        out = self.model.language_model(
            inputs_embeds=hidden,
            position_ids=position_ids,
            attention_mask=None,
            use_cache=False,
            cu_seq_lens_q=cu_seqlens,
            cu_seq_lens_k=cu_seqlens,
            max_length_q=max_seqlen,
            max_length_k=max_seqlen,
            **pictures,
        )
        return normalize(pool(out.last_hidden_state[0], cu_seqlens, self.profile.pooling))
