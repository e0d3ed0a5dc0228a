"""CUDA graphs for texts, with a recorder that works on CPUs.

Attention is replaced by one that behaves like the kernels of CUDA: rows that belong to no segment
are not written, and may contain anything.
"""

import logging
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch import gpu_engine, text_layer
from lensemble.encoder.pytorch.attention.attention_cpu import attend_per_segment
from lensemble.encoder.pytorch.gpu_engine import GpuEngine
from lensemble.encoder.pytorch.text_graphs import Bucket, TextGraphs
from lensemble.encoder.synthetic_items import synthetic_picture, synthetic_texts
from tests.conftest import EMBEDDING, MEAN

CPU = torch.device("cpu")


def attention_like_cuda(module, query, key, value, mask, *, scaling, cu_seq_lens_q, max_length_q):
    """Leaves NaN in rows without a segment; a segment over `max_length_q` is an error."""
    boundaries = cu_seq_lens_q.unique()
    assert int(boundaries.diff().max()) <= max_length_q
    end = int(boundaries[-1])
    out = torch.full_like(query.transpose(1, 2), torch.nan)
    rows = [tensor[:, :, :end] for tensor in (query, key, value)]
    out[:, :end] = attend_per_segment(*rows, boundaries, scaling, True)
    return out, None


class CpuRecorder:
    """Records a function by remembering it.

    Attributes:
        replays: number of times that a graph ran.
    """

    def __init__(self):
        self.replays = 0

    def __call__(self, run):
        result = run()

        def replay():
            self.replays += 1
            result.copy_(run())

        return replay, result


class GpuEngineOnCpu(GpuEngine):
    """The engine of a GPU, with a model on the CPU."""

    def __init__(self, engine):
        self.__dict__.update(engine.__dict__)
        self._uploader = lambda packed: packed

    def _current_device(self):
        return nullcontext()


@pytest.fixture
def engine(pipelines, request, monkeypatch):
    monkeypatch.setattr(text_layer, "packed_attention", attention_like_cuda)
    return GpuEngineOnCpu(pipelines[getattr(request, "param", EMBEDDING)].encoder)


def texts(engine, lengths):
    return pack(synthetic_texts(lengths, engine.input_spec), engine.input_spec)


def recorded(engine, buckets, text_pass=None, record=None):
    graphs = TextGraphs(text_pass or engine._run_texts, CPU, record or CpuRecorder())

    def make_batch(bucket):
        return texts(engine, [bucket.tokens // bucket.segments] * bucket.segments)

    with torch.inference_mode():
        graphs.record_all(make_batch, buckets)
    return graphs


@pytest.mark.parametrize("engine", [EMBEDDING, MEAN], indirect=True)
@pytest.mark.parametrize("lengths", [[1], [15], [16], [9, 3], [8, 8], [1, 1, 1, 1], [5, 8, 2, 7]])
def test_graphs_give_the_vectors_of_an_ordinary_pass(engine, lengths):
    record = CpuRecorder()
    graphs = recorded(
        engine, [Bucket(16, 1, 16), Bucket(32, 4, 8), Bucket(64, 4, 64)], None, record
    )
    packed = texts(engine, lengths)
    replays = record.replays
    with torch.inference_mode():
        # Something else was in the tensors before.
        graphs.run(texts(engine, [16, 16, 16, 16]))
        vectors = graphs.run(packed)
        expected = engine.forward_on_device(packed)
    assert record.replays == replays + 2
    torch.testing.assert_close(vectors, expected, atol=2e-6, rtol=1e-5)


def test_vectors_of_a_run_are_not_overwritten_by_the_next(engine):
    graphs = recorded(engine, [Bucket(16, 2, 16)])
    with torch.inference_mode():
        first = graphs.run(texts(engine, [3, 4]))
        copy = first.clone()
        graphs.run(texts(engine, [7, 8]))
    assert first.equal(copy)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([7], Bucket(8, 1, 8)),
        ([9], Bucket(16, 1, 16)),
        ([3, 4], Bucket(32, 4, 8)),
        ([3, 9], None),  # the second text is too long for the only bucket with four segments
        ([3] * 5, None),
        ([17], None),
    ],
)
def test_smallest_graph_that_fits_is_used(engine, monkeypatch, lengths, expected):
    graphs = recorded(engine, [Bucket(32, 4, 8), Bucket(16, 1, 16), Bucket(8, 1, 8)])
    used = []
    for bucket, graph in graphs._graphs.items():
        monkeypatch.setattr(graph, "run", lambda batch, bucket=bucket: used.append(bucket))
    graphs.run(texts(engine, lengths))
    assert used == ([expected] if expected else [])


def test_pictures_have_no_graph(engine):
    graphs = recorded(engine, [Bucket(64, 4, 64)])
    picture = synthetic_picture(4, engine.input_spec)
    assert graphs.run(pack([picture], engine.input_spec)) is None


def test_graph_with_other_vectors_is_not_used(engine, caplog):
    def text_pass(input_ids, position_ids, cu_seqlens, max_seqlen):
        vectors = engine._run_texts(input_ids, position_ids, cu_seqlens, max_seqlen)
        is_graph = input_ids.shape[1] == 16 and len(cu_seqlens) == 5
        return vectors.roll(1, dims=1) if is_graph and position_ids.shape[2] == 16 else vectors

    with torch.inference_mode():
        graphs = TextGraphs(text_pass, CPU, CpuRecorder())
        graphs.record_all(
            lambda bucket: texts(engine, [2, 3]), [Bucket(16, 4, 16), Bucket(32, 4, 32)]
        )
    assert list(graphs._graphs) == [Bucket(32, 4, 32)]
    assert "has no CUDA graph, because its vectors differ" in caplog.text


def test_failure_to_record_is_logged_and_texts_run_without_graphs(engine, caplog):
    def record(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = recorded(engine, [Bucket(16, 1, 16)], None, record)
    assert graphs.run(texts(engine, [3])) is None
    assert "operation not permitted when stream is capturing" in caplog.text


def test_engine_encodes_texts_by_its_graphs(engine, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(gpu_engine, "BUCKETS", (Bucket(32, 1, 32), Bucket(128, 4, 64)))
    record = CpuRecorder()
    engine._record_text_graphs(record)
    assert "2 CUDA graphs" in caplog.text
    replays = record.replays
    short, picture = texts(engine, [30]), synthetic_picture(4, engine.input_spec)
    with_picture = pack([picture], engine.input_spec)
    vectors = engine.forward(short)
    assert record.replays == replays + 1
    torch.testing.assert_close(
        vectors, engine.forward_on_device(short).clone(), atol=2e-6, rtol=1e-5
    )
    engine.forward(with_picture)
    engine.forward(replace(short, max_seqlen=5000))
    assert record.replays == replays + 1
