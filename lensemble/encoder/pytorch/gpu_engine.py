"""The engine on PyTorch, on a GPU: two passes are in flight, and short texts run as CUDA graphs.

While the GPU computes one pass, the CPU packs and uploads the next one (`upload`), and nothing
waits but the function that fetches the result. When the model is loaded, the micro-batches are made
as large as the free memory allows, and the graphs are recorded (`text_graphs`).

This has not run on a GPU yet (docs/performance.md): the tests use fake CUDA tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import Qwen3VLModel

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.engine import BUDGETS, PassResult
from lensemble.encoder.micro_batches.budgets import largest_budget
from lensemble.encoder.packing import PackedBatch, pack
from lensemble.encoder.pass_statistics import TowerTimer
from lensemble.encoder.pytorch.text_graphs import BUCKETS, Bucket, CudaRecorder, Record, TextGraphs
from lensemble.encoder.pytorch.torch_engine import TIMED_TEXT_TOKENS, TorchEngine
from lensemble.encoder.pytorch.upload import Uploader, pinned_rows
from lensemble.encoder.synthetic_items import synthetic_picture, synthetic_texts
from lensemble.preprocess.features import Features

# Sizes of the synthetic items that fill a GPU's memory while it warms up.
_WARM_UP_TEXT_TOKENS = 512
_WARM_UP_PICTURE_SIDE = 32  # patches, which are 512 pixels


class GpuEngine(TorchEngine):
    """Encodes features with PyTorch on one GPU.

    Args:
        model: as for `TorchEngine`, on a CUDA device.
        checkpoint: the model's serving checkpoint.
        batch_tokens: largest number of tokens in one micro-batch.
        batch_patches: largest number of patches in one micro-batch.

    Attributes:
        records_text_graphs: whether `warm_up` records CUDA graphs for short texts. No operation of
            the text tower may wait for a result (`waits_for_no_result`).
    """

    passes_in_flight = 2
    records_text_graphs = False
    _text_graphs: TextGraphs | None = None

    def __init__(
        self,
        model: Qwen3VLModel,
        checkpoint: Checkpoint,
        *,
        batch_tokens: int = BUDGETS["cuda"][0],
        batch_patches: int = BUDGETS["cuda"][1],
    ) -> None:
        super().__init__(model, checkpoint, batch_tokens=batch_tokens, batch_patches=batch_patches)
        self._uploader = Uploader(self.device)

    def run_pass(self, items: Sequence[Features]) -> PassResult:
        """See `Engine.run_pass`."""
        return self.launch_pass(items)()

    def launch_pass(self, items: Sequence[Features]) -> Callable[[], PassResult]:
        """See `Engine.launch_pass`."""
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
        """See `TorchEngine.forward`."""
        with self._current_device():
            batch = self._uploader(packed)
            if self._text_graphs is not None:
                self._timer.mark()
                self._timer.mark()  # there is no vision tower
                vectors = self._text_graphs.run(batch)
                if vectors is not None:
                    self._timer.mark()
                    return vectors
            return self.forward_on_device(batch)

    def forward_with_gradients(self, packed: PackedBatch) -> torch.Tensor:
        """See `TorchEngine.forward_with_gradients`."""
        with self._current_device():
            return self.forward_on_device(self._uploader(packed))

    def warm_up(self) -> None:
        """See `Engine.warm_up`.

        It also records the graphs of short texts, and encodes a full micro-batch of texts and one
        of pictures, so that their memory is allocated before the first request. A budget that does
        not fit into the free memory is halved until it does.

        Raises:
            OverloadedError: A single text or picture does not fit into memory.
        """
        super().warm_up()
        if self.records_text_graphs:
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

    def _current_device(self) -> AbstractContextManager[Any]:
        """Makes the model's GPU the current one of this thread.

        Events and streams belong to the current device, which is the first GPU in a new thread.
        """
        return torch.cuda.device(self.device)

    @torch.inference_mode()
    def _record_text_graphs(self, record: Record) -> None:
        graphs = TextGraphs(self._run_texts, self.device, record)

        def make_batch(bucket: Bucket) -> PackedBatch:
            count = min(bucket.segments, bucket.tokens // TIMED_TEXT_TOKENS)
            texts = synthetic_texts([TIMED_TEXT_TOKENS - 1] * count, self.input_spec)
            return self._uploader(pack(texts, self.input_spec))

        graphs.record_all(make_batch, BUCKETS)
        self._text_graphs = graphs

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
