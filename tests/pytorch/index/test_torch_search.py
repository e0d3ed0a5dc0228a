"""Exact search by PyTorch against FAISS on the CPU, and against comparing every vector."""

import faiss
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lensemble.index.snapshots import half_vectors, torch_search
from lensemble.index.snapshots.half_vectors import GROUP, HalfVectors
from lensemble.index.snapshots.torch_search import TorchSearch

CPU = torch.device("cpu")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def uniform(count, dimension, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def clustered(count, dimension, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((20, dimension))
    noise = rng.standard_normal((count, dimension))
    return unit(centres[rng.integers(20, size=count)] + 0.1 * noise)


def repeated(count, dimension, seed=0):
    """Half of the vectors are copies of three others, at random positions."""
    vectors = uniform(count, dimension, seed)
    rng = np.random.default_rng(seed)
    copies = rng.random(count) < 0.5
    vectors[copies] = vectors[rng.integers(min(3, count), size=int(copies.sum()))]
    return vectors


def signs(count, dimension, seed=0):
    """Components of -1/8 and 1/8: float16 and all sums are exact, and nearly all scores tie."""
    assert dimension == 64
    chosen = np.random.default_rng(seed).choice([-1, 1], size=(count, dimension))
    return (chosen / 8).astype(np.float32)


CORPORA = (uniform, clustered, repeated, signs)


def queries_for(corpus, vectors):
    """Nine queries: others of the same kind, three vectors themselves, and zero."""
    queries = corpus(9, vectors.shape[1], seed=1)
    queries[:3] = vectors[:3]  # in `repeated`, hundreds of vectors equal each of them
    queries[3] = 0
    return queries


def load(vectors, *, vectors_on_device=True):
    return TorchSearch.load(vectors, CPU, vectors_on_device=vectors_on_device)


def compare_all(queries, vectors, k, usable=None):
    """Every float32 score; the best k, and among equal ones the first."""
    scores = (torch.from_numpy(vectors) * torch.from_numpy(queries)[:, None]).sum(2).numpy()
    if usable is not None:
        scores[:, ~usable] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def assert_equal_to_faiss(found, queries, vectors, k, usable=None):
    """Equal scores. Positions may differ only where FAISS's scores are equal up to rounding."""
    selector = None if usable is None else faiss.IDSelectorBatch(np.flatnonzero(usable))
    expected, positions = faiss.knn(
        queries, vectors, len(vectors), metric=faiss.METRIC_INNER_PRODUCT
    )
    if selector is not None:
        kept = [np.flatnonzero(usable[line]) for line in positions]
        expected = np.stack([line[n] for line, n in zip(expected, kept, strict=True)])
        positions = np.stack([line[n] for line, n in zip(positions, kept, strict=True)])
    scores, rows = found
    np.testing.assert_allclose(scores, expected[:, :k], atol=1e-6)
    for line, own, all_scores, order in zip(rows, scores, expected, positions, strict=True):
        assert len(set(line.tolist())) == k
        surely = set(order[all_scores > own[-1] + 2e-6].tolist())
        perhaps = set(order[all_scores >= own[-1] - 2e-6].tolist())
        assert surely <= set(line.tolist()) <= perhaps


@pytest.fixture
def widened(monkeypatch):
    """The number of queries whose candidates were widened."""
    calls, widen = [], TorchSearch._widened

    def count(self, *arguments):
        calls.append(arguments)
        return widen(self, *arguments)

    monkeypatch.setattr(TorchSearch, "_widened", count)
    return calls


@pytest.mark.parametrize("vectors_on_device", [True, False])
@pytest.mark.parametrize("k", [1, 10, 150, 2000])
@pytest.mark.parametrize("corpus", CORPORA)
def test_result_equals_that_of_comparing_every_vector_and_faiss(corpus, k, vectors_on_device):
    vectors = corpus(2000, 64)
    queries = queries_for(corpus, vectors)
    found = load(vectors, vectors_on_device=vectors_on_device).search(queries, k)
    expected = compare_all(queries, vectors, k)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert_equal_to_faiss(found, queries, vectors, k)


@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
@pytest.mark.parametrize("corpus", CORPORA)
def test_only_usable_positions_are_returned(corpus, share):
    vectors = corpus(2000, 64)
    queries = queries_for(corpus, vectors)
    usable = np.random.default_rng(2).random(2000) < share
    k = min(10, int(usable.sum()))
    found = load(vectors).search(queries, k, usable)
    expected = compare_all(queries, vectors, k, usable)
    np.testing.assert_array_equal(found[1], expected[1])
    assert_equal_to_faiss(found, queries, vectors, k, usable)


@pytest.mark.parametrize("dimension", [3, 64, 1000])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 128, 500])
def test_small_corpora_are_returned_completely(count, dimension):
    vectors, queries = uniform(count, dimension), uniform(3, dimension, seed=1)
    found = load(vectors).search(queries, count)
    np.testing.assert_array_equal(found[1], compare_all(queries, vectors, count)[1])
    usable = np.zeros(count, np.bool_)
    usable[-1] = True
    assert load(vectors).search(queries, 1, usable)[1].tolist() == [[count - 1]] * 3


@pytest.mark.parametrize("corpus", CORPORA)
def test_blocks_give_the_same_result_as_one(monkeypatch, corpus):
    vectors = corpus(1000, 64)
    queries = queries_for(corpus, vectors)
    usable = np.random.default_rng(2).random(1000) < 0.5
    for name in ("_SCORES_BYTES", "_WIDENED_BYTES", "_RESCORED_BYTES"):
        monkeypatch.setattr(torch_search, name, 1)  # one group of rows, and one vector, at a time
    for mask in (None, usable):
        found = load(vectors).search(queries, 20, mask)
        np.testing.assert_array_equal(found[1], compare_all(queries, vectors, 20, mask)[1])


@pytest.mark.parametrize("count", [1, 5, 64, 300])
@pytest.mark.parametrize("size", [4, 4 * 7 * GROUP * 5, 2**30])
def test_no_row_scores_more_than_the_lowest_candidate(count, size):
    vectors, queries = uniform(1001, 64), uniform(7, 64, seed=1)
    half, codes = HalfVectors.upload(vectors, CPU), torch.from_numpy(queries).half()
    ((_, scores),) = half.blocks(codes, 2**30)
    expected = scores[:, :1001].topk(count, 1)
    found, rows = half.candidates(codes, count, None, size)
    torch.testing.assert_close(found.sort(1, descending=True).values, expected.values)
    assert torch.equal(rows.sort(1).values, expected.indices.sort(1).values)


def test_upload_in_parts_is_complete(monkeypatch):
    vectors, queries = uniform(1000, 64), uniform(5, 64, seed=1)
    whole = load(vectors).search(queries, 10)
    monkeypatch.setattr(half_vectors, "_UPLOAD_BYTES", 4 * 64 * 7)
    np.testing.assert_array_equal(load(vectors).search(queries, 10)[1], whole[1])


def test_candidates_are_widened_only_where_the_bound_is_not_met(widened):
    vectors = uniform(2000, 64)
    load(vectors).search(uniform(9, 64, seed=1), 10)
    load(vectors).search(uniform(9, 64, seed=1), 10, np.arange(2000) < 20)
    load(vectors[:64]).search(uniform(9, 64, seed=1), 10)
    assert not widened
    vectors[::2] = vectors[7]
    load(vectors).search(np.stack([vectors[7], vectors[1]]), 10)
    assert len(widened) == 1


def push_to_the_bound(monkeypatch, vectors, factor=1.0):
    """Makes products err as far as the bound allows, in the direction that harms most."""
    length, dimension = 1.0, vectors.shape[1]
    error = factor * half_vectors._ADDITION_ERROR * dimension * length
    product = half_vectors._product

    def wrong(queries, codes):
        scores = product(queries, codes)
        # Half of the rows look better than they are, the other half worse.
        signs = torch.where(torch.arange(len(codes)) % 2 == 0, error, -error)
        return scores + signs

    monkeypatch.setattr(half_vectors, "_product", wrong)


@pytest.mark.parametrize("dimension", [64, 1024])
def test_result_is_right_if_products_err_as_far_as_the_bound_allows(
    monkeypatch, widened, dimension
):
    """Neighbours that differ by less than the bound: near copies of the queries."""
    rng = np.random.default_rng(3)
    queries = uniform(4, dimension)
    spread = half_vectors._ADDITION_ERROR * dimension
    near = np.sqrt(spread / dimension) * rng.standard_normal((1500, dimension))
    vectors = unit(queries[rng.integers(4, size=1500)] + near)
    push_to_the_bound(monkeypatch, vectors)
    found = load(vectors).search(queries, 10)
    np.testing.assert_array_equal(found[1], compare_all(queries, vectors, 10)[1])
    assert widened
    # Without the widening the result would be wrong, so the test above is not too easy.
    monkeypatch.setattr(
        HalfVectors, "error_bounds", lambda self, queries, _: np.zeros(len(queries))
    )
    found = load(vectors).search(queries, 10)
    assert (found[1] != compare_all(queries, vectors, 10)[1]).any()


@pytest.mark.parametrize("dimension", [8, 64, 2048, 4096])
def test_bound_holds_and_is_narrow(dimension):
    vectors, queries = uniform(300, dimension), uniform(20, dimension, seed=1)
    vectors[:20] = queries
    half = HalfVectors.upload(vectors, CPU)
    codes = queries.astype(np.float16)
    bounds = half.error_bounds(queries, codes)
    ((_, scores),) = half.blocks(torch.from_numpy(codes), 2**30)
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    errors = np.abs(scores[:, :300].numpy() - exact).max(axis=1)
    assert (errors <= bounds).all()
    assert errors.max() > 0.05 * bounds.max() * min(1, 64 / dimension)
    assert bounds.max() < 3e-3


def test_rows_that_float16_rounds_most_widen_the_bound():
    vectors = uniform(300, 64)
    narrow = HalfVectors.upload(vectors, CPU)
    vectors[5] *= 1000  # its float16 values are 1,000 times coarser
    wide = HalfVectors.upload(vectors, CPU)
    assert wide.rounding > 100 * narrow.rounding
    assert wide.length == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize("factor", [0.0, 1e-9, 1e-4, 1e3, 1e6, 1e30])
def test_queries_of_any_length_are_answered(factor):
    """float16 has no values above 65,504, and none but zero below 3e-8."""
    vectors = uniform(700, 64)
    queries = (factor * uniform(3, 64, seed=1)).astype(np.float32)
    scores, rows = load(vectors).search(queries, 10)
    expected, order = compare_all(queries, vectors, 10)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(scores, expected)


def test_scores_that_overflow_exclude_no_vector():
    """A component above 65,504 is infinite in float16, and gives scores of -inf."""
    vectors = uniform(700, 64)
    query = np.zeros((1, 64), np.float32)
    query[0, 5] = 1e6
    rows = load(vectors).search(query, 500)[1]
    np.testing.assert_array_equal(rows, compare_all(query, vectors, 500)[1])


def test_queries_that_are_not_finite_find_nothing_and_disturb_no_other():
    vectors, queries = uniform(700, 64), uniform(4, 64, seed=1)
    queries[1, 3], queries[2, 0] = np.nan, np.inf
    scores, rows = load(vectors).search(queries, 10)
    assert (rows[1:3] == -1).all() and (scores[1:3] == -np.inf).all()
    np.testing.assert_array_equal(rows[::3], compare_all(queries[::3], vectors, 10)[1])


def test_vectors_that_float16_cannot_hold_are_refused():
    vectors = uniform(100, 64)
    vectors[3] *= 1e6
    with pytest.raises(ValueError, match="float16 cannot hold some vectors"):
        load(vectors)


def test_estimate_of_memory_covers_what_is_stored():
    for on_device in (True, False):
        search = load(uniform(1000, 64), vectors_on_device=on_device)
        stored = search._half.codes.nbytes + on_device * search._vectors.nbytes
        estimate = torch_search.device_bytes(1000, 64, vectors_on_device=on_device)
        assert stored < estimate - torch_search.WORKSPACE_BYTES < 1.1 * stored


class Recorder(TorchDispatchMode):
    """Names of the operations that compute something, all devices, and the largest result."""

    def __init__(self):
        super().__init__()
        self.names, self.devices, self.largest = [], set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func.namespace == "aten":
            self.names.append(func.name().removeprefix("aten::"))
        results = result if isinstance(result, tuple | list) else (result,)
        tensors = [one for one in results if isinstance(one, torch.Tensor)]
        self.devices |= {one.device for one in tensors}
        if not func.is_view:
            self.largest = max([self.largest, *(one.nbytes for one in tensors)])
        return result


# Operations whose result the CPU must know before it goes on.
WAITING = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero", "masked_select")


def trace(count, *, k=10, batch=64, dimension=1024, masked=False, vectors_on_device=True):
    """The operations of the first pass on CUDA tensors that have no memory."""
    rows = -(-count // GROUP) * GROUP
    with FakeTensorMode():
        gpu = torch.device("cuda")
        codes = torch.empty(rows, dimension, dtype=torch.float16, device=gpu)
        place = gpu if vectors_on_device else CPU
        vectors = torch.empty(count, dimension, device=place)
        search = TorchSearch(HalfVectors(codes, count, 1.0, 1e-3), vectors)
        query_codes = torch.empty(batch, dimension, dtype=torch.float16, device=gpu)
        queries = torch.empty(batch, dimension, device=place)
        bounds = torch.empty(batch, dtype=torch.float64, device=place)
        blocked = torch.empty(rows, dtype=torch.bool, device=gpu) if masked else None
        with Recorder() as recorder:
            results = search.first_pass(query_codes, queries, bounds, k, blocked)
    assert [(tuple(one.shape), one.dtype) for one in results] == [
        ((batch, k), torch.float32),
        ((batch, k), torch.int64),
        ((batch,), torch.bool),
    ]
    return recorder


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("dimension", [256, 2048, 4096])
def test_on_cuda_everything_stays_on_the_device_and_nothing_waits(dimension, batch, masked):
    recorder = trace(3_000_001, batch=batch, dimension=dimension, masked=masked)
    assert recorder.devices == {torch.device("cuda", 0)}
    assert not [name for name in recorder.names if name.split(".")[0] in WAITING]
    assert "mm.dtype" in recorder.names  # float16 in, float32 out


@pytest.mark.parametrize("k", [10, 1000])
@pytest.mark.parametrize("count", [10_000, 50_000_000])
def test_on_cuda_working_memory_does_not_grow_with_the_index(count, k):
    recorder = trace(count, k=k, dimension=4096, masked=True)
    assert recorder.largest <= torch_search.WORKSPACE_BYTES / 4


def test_upload_to_cuda_waits_once_at_its_end(monkeypatch):
    """The maxima of lengths and roundings are read when everything is copied."""
    monkeypatch.setattr(half_vectors, "_UPLOAD_BYTES", 4 * 64 * 100)
    vectors = uniform(1000, 64)
    with FakeTensorMode(allow_non_fake_inputs=True), Recorder() as recorder:
        with pytest.raises(DataDependentOutputException):  # a fake tensor has no values to read
            HalfVectors.upload(vectors, torch.device("cuda"))
    assert recorder.names.count("copy_") == 10
    assert recorder.names.count("maximum") == 10  # all parts came before the wait


def test_on_cuda_each_block_takes_the_same_few_operations():
    counts = [len(trace(blocks * 2**19).names) for blocks in (2, 3, 10)]
    per_block = counts[1] - counts[0]
    assert counts[2] - counts[0] == 8 * per_block
    assert per_block <= 16
    print(f"\n{per_block} operations a block of {2**19} rows for 64 queries")


def test_originals_in_host_memory_are_waited_for_once_a_batch():
    traces = [trace(blocks * 2**19, vectors_on_device=False) for blocks in (1, 10)]
    copies = [recorder.names.count("_to_copy") for recorder in traces]
    assert copies[0] == copies[1]
    for recorder in traces:
        assert not [name for name in recorder.names if name.split(".")[0] in WAITING]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dimension", [64, 1024])
@pytest.mark.parametrize("vectors_on_device", [True, False])
@pytest.mark.parametrize("corpus", [uniform, clustered, repeated])
def test_gpu_finds_what_faiss_finds(corpus, vectors_on_device, dimension):
    vectors, queries = corpus(20_000, dimension), corpus(64, dimension, seed=1)
    usable = np.random.default_rng(2).random(20_000) < 0.3
    gpu = torch.device("cuda", 0)
    search = TorchSearch.load(vectors, gpu, vectors_on_device=vectors_on_device)
    for mask in (None, usable):
        found = search.search(queries, 10, mask)
        assert_equal_to_faiss(found, queries, vectors, 10, mask)
