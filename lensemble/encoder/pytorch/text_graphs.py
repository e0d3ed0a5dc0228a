"""CUDA graphs for passes of short texts.

The CPU needs longer to launch the hundreds of kernels of such a pass than the GPU to compute them.
A CUDA graph records all launches once, for tensors at fixed addresses, and then starts them with
one call. Shapes are fixed, too, so there is a graph for each of a few sizes (`BUCKETS`), and a
batch is copied into the smallest one that it fits into. The rest of its row belongs to no segment:
attention does not touch it, and all other operations treat each token by itself.

Graphs are recorded and compared with an ordinary pass when the model is loaded. None of this has
run on a GPU yet (docs/performance.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from lensemble.encoder.packing import PackedBatch

logger = logging.getLogger(__name__)

# Passes that run before recording, because kernels are compiled and chosen in their first call.
_RUNS_BEFORE_RECORDING = 2
# Smallest cosine between the vectors of a graph and those of an ordinary pass.
_MIN_COSINE = 0.9999


@dataclass(frozen=True, slots=True)
class Bucket:
    """The size of one graph.

    Attributes:
        tokens: largest number of tokens.
        segments: largest number of texts.
        max_length: largest number of tokens of one text. It limits how many blocks of threads the
            attention kernel starts.
    """

    tokens: int
    segments: int
    max_length: int


# Single questions, and many short texts. Larger passes keep the GPU busy without graphs.
BUCKETS = (
    *(Bucket(tokens, 1, tokens) for tokens in (32, 64, 128, 256, 512)),
    *(Bucket(tokens, 64, 64) for tokens in (128, 256, 512, 1024, 2048)),
)

# input_ids (1, L), position_ids (3, 1, L), cu_seqlens (S + 1,), longest segment -> (S, D)
TextPass = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
# Records a function's launches: returns what starts them again, and the function's result.
Record = Callable[[Callable[[], torch.Tensor]], tuple[Callable[[], None], torch.Tensor]]


class CudaRecorder:
    """Records graphs whose temporary tensors share memory: they never run at the same time."""

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """See `Record`."""
        current: Any = torch.cuda.current_stream()
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_RUNS_BEFORE_RECORDING):
                run()
        current.wait_stream(stream)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = run()
        return graph.replay, result


class RecordedPass:
    """The graph of one bucket, with its tensors at fixed addresses.

    Args:
        bucket: its size.
        text_pass: the pass to record.
        device: device of the weights.
        record: records the launches.
    """

    def __init__(
        self, bucket: Bucket, text_pass: TextPass, device: torch.device, record: Record
    ) -> None:
        self._input_ids = torch.zeros((1, bucket.tokens), dtype=torch.int64, device=device)
        self._position_ids = torch.zeros((3, 1, bucket.tokens), dtype=torch.int64, device=device)
        # One text that fills the row as far as it may.
        self._cu_seqlens = torch.full(
            (bucket.segments + 1,), bucket.max_length, dtype=torch.int32, device=device
        )
        self._cu_seqlens[0] = 0
        self._replay, self._vectors = record(
            lambda: text_pass(
                self._input_ids, self._position_ids, self._cu_seqlens, bucket.max_length
            )
        )

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Encodes a batch that fits; returns its vectors (S, D).

        Copies and launches are in the order of the stream, so a batch may be copied in while the
        one before still runs.
        """
        tokens, boundaries = batch.input_ids.shape[1], len(batch.cu_seqlens)
        self._input_ids[:, :tokens].copy_(batch.input_ids)
        self._position_ids[:, :, :tokens].copy_(batch.position_ids)
        self._cu_seqlens[:boundaries].copy_(batch.cu_seqlens)
        # The segments that are left are empty.
        self._cu_seqlens[boundaries:].copy_(
            batch.cu_seqlens[-1:].expand(len(self._cu_seqlens) - boundaries)
        )
        self._replay()
        return self._vectors[: boundaries - 1].clone()


class TextGraphs:
    """Graphs for all buckets.

    Args:
        text_pass: the pass to record; no operation in it may wait for the device.
        device: device of the weights.
        record: records launches; a `CudaRecorder`.
    """

    def __init__(self, text_pass: TextPass, device: torch.device, record: Record) -> None:
        self._text_pass, self._device, self._record = text_pass, device, record
        self._graphs: dict[Bucket, RecordedPass] = {}

    def record_all(
        self,
        make_batch: Callable[[Bucket], PackedBatch],
        buckets: Iterable[Bucket] = BUCKETS,
    ) -> None:
        """Records the graphs, and keeps those that give the vectors of an ordinary pass.

        Args:
            make_batch: makes a batch on the device, of texts that fit into a bucket.
            buckets: sizes of the graphs.
        """
        for bucket in buckets:
            try:
                graph = RecordedPass(bucket, self._text_pass, self._device, self._record)
                batch = make_batch(bucket)
                vectors = graph.run(batch)
                expected = self._text_pass(
                    batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.max_seqlen
                )
                cosine = float((vectors * expected).sum(dim=1).min())
            except Exception as error:
                logger.warning(
                    "texts run without CUDA graphs from %s on, because recording one failed: "
                    "%s: %s",
                    bucket,
                    type(error).__name__,
                    error,
                )
                return
            if cosine >= _MIN_COSINE:  # False for NaN, too
                self._graphs[bucket] = graph
            else:
                logger.warning(
                    "%s has no CUDA graph, because its vectors differ: cosine %.6f; expected "
                    "at least %g",
                    bucket,
                    cosine,
                    _MIN_COSINE,
                )
        logger.info("%d CUDA graphs for passes of short texts", len(self._graphs))

    def run(self, batch: PackedBatch) -> torch.Tensor | None:
        """Encodes a batch of texts by the smallest graph that it fits into.

        Args:
            batch: a batch on the device.

        Returns:
            (S, D) float32, unit length; None if the batch has pictures or fits into no graph.
        """
        if len(batch.patches):
            return None
        tokens, segments = batch.input_ids.shape[1], len(batch.cu_seqlens) - 1
        fitting = [
            bucket
            for bucket in self._graphs
            if tokens <= bucket.tokens
            and segments <= bucket.segments
            and batch.max_seqlen <= bucket.max_length
        ]
        if not fitting:
            return None
        smallest = min(fitting, key=lambda bucket: (bucket.tokens, bucket.segments))
        return self._graphs[smallest].run(batch)
