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
# Smallest cosine between the vectors of a graph and those of the same operations without a graph.
_MIN_COSINE_OF_GRAPH = 0.9999
# Smallest cosine to the vectors of an ordinary pass. Its products have fewer rows, so the library
# may choose other kernels, which round differently.
_MIN_COSINE_OF_PASS = 0.999


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
    """Records graphs whose temporary tensors share memory: they never run at the same time.

    It must be made and called while its GPU is the current device. All graphs are recorded on one
    stream, because cuBLAS keeps a workspace for each stream that it has seen.
    """

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """See `Record`."""
        current: Any = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_RUNS_BEFORE_RECORDING):
                run()
        current.wait_stream(self._stream)
        graph: Any = torch.cuda.CUDAGraph()
        # If recording fails, `torch.cuda.graph` leaves its stream as the current one; the outer
        # block restores the stream.
        with (
            torch.cuda.stream(current),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
        ):
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
        self._bucket, self._text_pass = bucket, text_pass
        self._replay, self._vectors = record(self._run_operations)

    def fault(self, batch: PackedBatch) -> str:
        """Encodes a batch, and compares the vectors; returns what is wrong, or an empty text."""
        vectors = self.run(batch)
        without_graph = self._run_operations()[: len(vectors)]
        ordinary = self._text_pass(
            batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.max_seqlen
        )
        for expected, least in (
            (without_graph, _MIN_COSINE_OF_GRAPH),
            (ordinary, _MIN_COSINE_OF_PASS),
        ):
            cosine = float((vectors * expected).sum(dim=1).min())
            if not cosine >= least:  # also if it is NaN
                return f"its vectors differ: cosine {cosine:.6f}; expected at least {least:g}"
        return ""

    def _run_operations(self) -> torch.Tensor:
        """Runs the pass over the tensors at fixed addresses."""
        return self._text_pass(
            self._input_ids, self._position_ids, self._cu_seqlens, self._bucket.max_length
        )

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Encodes a batch that fits; returns its vectors (S, D), float32, unit length.

        This may be called while the batch before still runs: the copies are on the same stream, so
        they wait for it.
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
        buckets: Iterable[Bucket],
    ) -> None:
        """Records the graphs, and keeps those that give the vectors of an ordinary pass.

        Args:
            make_batch: makes a batch on the device, of texts that fit into a bucket.
            buckets: sizes of the graphs.
        """
        for bucket in buckets:
            try:
                graph = RecordedPass(bucket, self._text_pass, self._device, self._record)
                fault = graph.fault(make_batch(bucket))
            except Exception as error:
                logger.warning(
                    "texts run without CUDA graphs from %s on, because recording one failed: "
                    "%s: %s",
                    bucket,
                    type(error).__name__,
                    error,
                )
                return
            if fault:
                logger.warning("%s has no CUDA graph, because %s", bucket, fault)
            else:
                self._graphs[bucket] = graph
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
