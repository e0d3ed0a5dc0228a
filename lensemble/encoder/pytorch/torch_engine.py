"""The engine on PyTorch: features become unit vectors, without padding.

The model is Transformers' own, with five changes. All items of a micro-batch are in one row
(`packing`), attention keeps them apart (`attention`), the patch embedding is a linear layer on
uint8 rows (`patch_embedding`), every index is computed on the CPU beforehand, and the layers have
fewer operations (`fused_layers`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import Qwen3VLModel

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.engine import BUDGETS, Engine, PassResult, micro_batch_budgets
from lensemble.encoder.freed_memory import keep_freed_memory
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.micro_batches.budgets import largest_budget
from lensemble.encoder.packing import PackedBatch, pack
from lensemble.encoder.pass_statistics import TowerTimer
from lensemble.encoder.pooling import normalize, pool
from lensemble.encoder.precision import precisions_to_try, vectors_agree
from lensemble.encoder.pytorch.attention import use_packed_attention
from lensemble.encoder.pytorch.choose_operations import choose_operations
from lensemble.encoder.pytorch.fused_layers import add_deepstack_features, fuse_layers
from lensemble.encoder.pytorch.onednn_linear import reorder_weights
from lensemble.encoder.pytorch.patch_embedding import PatchEmbedding
from lensemble.encoder.pytorch.text_graphs import BUCKETS, Bucket, CudaRecorder, Record, TextGraphs
from lensemble.encoder.pytorch.thread_count import ThreadCount, measure_thread_count
from lensemble.encoder.pytorch.upload import Uploader, pinned_rows
from lensemble.encoder.pytorch.varlen_kernels import (
    attention_shapes,
    choose_kernels,
    waits_for_no_result,
)
from lensemble.encoder.synthetic_items import synthetic_picture, synthetic_texts
from lensemble.preprocess.features import Features
from lensemble.settings import Settings

logger = logging.getLogger(__name__)

# Length of the synthetic texts whose passes are timed.
_TIMED_TEXT_TOKENS = 32
# Sizes of the synthetic items that fill a GPU's memory while it warms up.
_WARM_UP_TEXT_TOKENS = 512
_WARM_UP_PICTURE_SIDE = 32  # patches, which are 512 pixels


class TorchEngine(Engine):
    """Encodes features with PyTorch.

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
        self._uploader: Uploader | None = None
        self._text_graphs: TextGraphs | None = None
        self._records_text_graphs = False
        if self.device.type == "cuda":
            self._uploader, self.passes_in_flight = Uploader(self.device), 2
        self.thread_count = ThreadCount(torch.get_num_threads())
        # Every pass gets a new timer. `forward` needs one without a pass, too; its times are never
        # read.
        self._timer = TowerTimer(torch.device("cpu"))

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        settings: Settings,
        device: str = "cpu",
        *,
        fused: bool = True,
    ) -> TorchEngine:
        """Loads the weights onto a device.

        On CPUs, memory that this process frees is then kept for later passes (`freed_memory`).

        Args:
            checkpoint: the serving checkpoint.
            settings: precision, threads and budgets.
            device: a torch device, such as `cpu` or `cuda:0`.
            fused: whether to replace the layers by the fused ones (`fused_layers`), which are for
                serving only. Training needs Transformers' own layers, which have gradients and the
                parameter names of the checkpoint.

        Raises:
            ValueError: `fused` is set and the layers are not those of a Qwen3-VL.
        """
        target = torch.device(device)
        if target.type == "cpu":
            keep_freed_memory()
        fastest, *others = precisions_to_try(settings.dtype, target)
        engine = cls._load(checkpoint, settings, target, fastest, fused)
        if others:
            trusted = cls._load(checkpoint, settings, target, others[-1], fused)
            if not vectors_agree(
                engine.encode, trusted.encode, engine.input_spec, "bf16 against fp32"
            ):
                engine = trusted
        if fused and target.type == "cuda":
            choose_operations(
                engine.model,
                settings.gpu_kernels,
                lambda items: engine.forward(pack(items, engine.input_spec)),
                engine.input_spec,
            )
        if target.type == "cpu":
            engine.thread_count = measure_thread_count(
                engine._run_pass_over_rows, settings.cpu_threads
            )
        logger.info("%s on %s in %s", checkpoint.profile.name, target, engine.dtype)
        return engine

    @classmethod
    def load_for_export(cls, checkpoint: Checkpoint, dtype: torch.dtype) -> TorchEngine:
        """Loads the model with fused layers onto the CPU, with weights in their normal layout.

        Args:
            checkpoint: the serving checkpoint.
            dtype: precision of the weights.
        """
        settings = Settings(checkpoint=checkpoint.folder)
        cpu = torch.device("cpu")
        return cls._load(checkpoint, settings, cpu, dtype, fused=True, reordered=False)

    @classmethod
    def _load(
        cls,
        checkpoint: Checkpoint,
        settings: Settings,
        device: torch.device,
        dtype: torch.dtype,
        fused: bool,
        *,
        reordered: bool = True,
    ) -> TorchEngine:
        model = Qwen3VLModel.from_pretrained(  # nosec B615
            checkpoint.folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        if fused:
            fuse_layers(model)
        batch_tokens, batch_patches = micro_batch_budgets(settings, device)
        engine = cls(
            model.to(device), checkpoint, batch_tokens=batch_tokens, batch_patches=batch_patches
        )
        if reordered:
            reorder_weights(engine.model)
        if device.type == "cuda":
            vision, text = attention_shapes(engine.model.config)
            choose_kernels((vision, text), device, dtype)
            engine._records_text_graphs = (
                fused and settings.gpu_graphs == "auto" and waits_for_no_result(text, dtype)
            )
        return engine

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
        if self._uploader is not None:
            return self.launch_pass(items)()
        packed = self.pack(items)
        self._timer = TowerTimer(self.device)
        tokens, patches = packed.input_ids.numel(), len(packed.patches)
        with self.thread_count.applied_to(tokens + patches):
            vectors = self.forward(packed).numpy()
        return PassResult(vectors, tokens, patches, self._timer.seconds())

    def launch_pass(self, items: Sequence[Features]) -> Callable[[], PassResult]:
        """See `Engine.launch_pass`."""
        if self._uploader is None:
            return super().launch_pass(items)
        packed = pack(items, self.input_spec, pinned_rows)
        timer = self._timer = TowerTimer(self.device)
        with self._current_device():
            vectors = self.forward(packed)
            # Not `vectors.cpu()`, which would wait for the pass.
            on_cpu = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
            on_cpu.copy_(vectors, non_blocking=True)
            ended: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            ended.record()

        def wait() -> PassResult:
            ended.synchronize()
            return PassResult(
                on_cpu.numpy(), packed.input_ids.numel(), len(packed.patches), timer.seconds()
            )

        return wait

    @torch.inference_mode()
    def forward(self, packed: PackedBatch) -> torch.Tensor:
        """Runs both towers, pooling and normalization.

        Args:
            packed: a batch on the CPU.

        Returns:
            (S, D) float32, unit length, on the model's device.
        """
        with self._current_device():
            batch = self._on_device(packed)
            if self._text_graphs is not None:
                self._timer.mark()
                self._timer.mark()  # there is no vision tower
                vectors = self._text_graphs.run(batch)
                if vectors is not None:
                    self._timer.mark()
                    return vectors
            return self.forward_on_device(batch)

    def forward_with_gradients(self, packed: PackedBatch) -> torch.Tensor:
        """Does the same as `forward`, with gradients if the layers are Transformers' own.

        Args:
            packed: a batch on the CPU. If the model is on the CPU too, the batch may have a shared
                prefix (`share_prefix`).

        Returns:
            (S, D) float32, unit length, on the model's device.
        """
        return self.forward_on_device(self._on_device(packed))

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

    def _current_device(self) -> AbstractContextManager[Any]:
        """Makes the model's GPU the current one of this thread.

        Events and streams belong to the current device, which is the first GPU in a new thread.
        """
        return nullcontext() if self._uploader is None else torch.cuda.device(self.device)

    def _on_device(self, packed: PackedBatch) -> PackedBatch:
        return packed if self._uploader is None else self._uploader(packed)

    def _run_texts(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
    ) -> torch.Tensor:
        """A pass without pictures; see `TextPass`."""
        hidden = self.model.language_model.embed_tokens(input_ids)
        return self._run_text_tower(hidden, position_ids, cu_seqlens, max_seqlen)

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

    def warm_up(self) -> None:
        """See `Engine.warm_up`.

        On GPUs it also encodes a full micro-batch of texts and one of pictures, so that their
        memory is allocated before the first request. A budget that does not fit into the free
        memory is halved until it does.

        Raises:
            OverloadedError: A single text or picture does not fit into memory.
        """
        super().warm_up()
        if self.device.type != "cuda":
            return
        if self._records_text_graphs:
            # Before the budgets: recording gives back the memory that PyTorch keeps for reuse, and
            # graphs keep memory of their own.
            with self._current_device():
                self._record_text_graphs(CudaRecorder())
        text_tokens = min(_WARM_UP_TEXT_TOKENS, self._batch_tokens)
        picture = synthetic_picture(_WARM_UP_PICTURE_SIDE, self.input_spec)
        self._batch_tokens = largest_budget(
            self._batch_tokens,
            synthetic_texts([text_tokens], self.input_spec)[0],
            text_tokens,
            "tokens (LENSEMBLE_BATCH_TOKENS)",
            self._try_pass,
        )
        self._batch_patches = largest_budget(
            self._batch_patches,
            picture,
            len(picture.patches),
            "patches (LENSEMBLE_BATCH_PATCHES)",
            self._try_pass,
        )

    @torch.inference_mode()
    def _record_text_graphs(self, record: Record) -> None:
        graphs = TextGraphs(self._run_texts, self.device, record)

        def make_batch(bucket: Bucket) -> PackedBatch:
            count = min(bucket.segments, bucket.tokens // _TIMED_TEXT_TOKENS)
            texts = synthetic_texts([_TIMED_TEXT_TOKENS - 1] * count, self.input_spec)
            return self._on_device(pack(texts, self.input_spec))

        graphs.record_all(make_batch, BUCKETS)
        self._text_graphs = graphs

    def _run_pass_over_rows(self, rows: int) -> None:
        """Runs a pass over texts of 32 tokens that have this number of tokens together."""
        lengths = [_TIMED_TEXT_TOKENS] * (rows // _TIMED_TEXT_TOKENS)
        # Not `self.pack`: a shared prefix would leave fewer tokens.
        self.forward(pack(synthetic_texts(lengths, self.input_spec), self.input_spec))
