"""Kinds of index: what the installed FAISS does, and what each kind finds."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from lensemble.index.search.faiss_search import FaissSearch
from lensemble.index.search.snapshot_search import SCAN_ROWS, SnapshotSearch
from lensemble.index.snapshots import faiss_index, kinds
from lensemble.index.snapshots.ground_truth import GroundTruth
from lensemble.index.snapshots.kinds import (
    BINARY,
    EXACT,
    FP16,
    HNSW,
    IVF,
    IVF_BINARY,
    IVF_PQ,
    IVF_SQ8,
    KINDS,
    SQ8,
)
from lensemble.index.snapshots.snapshot import Snapshot
from lensemble.index.snapshots.tune import TunedIndex, build_for_plan, exact_is_faster
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.read_results import StoreContents
from lensemble_contract.errors import InvalidInputError

N, D = 3000, 32


def clustered(count, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((60, D))
    vectors = centres[rng.integers(60, size=count)] + 0.5 * rng.standard_normal((count, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = clustered(N), clustered(40, seed=1)
EXPECTED = np.argsort(-(QUERIES @ VECTORS.T), axis=1, kind="stable")


def snapshot_search(kind, vectors=VECTORS, device="cpu", **parameters):
    contents = StoreContents(1, len(vectors), np.arange(1, len(vectors) + 1), vectors)
    tuned = build_for_plan(IndexPlan(kind, parameters=parameters), vectors)
    snapshot = Snapshot.from_contents(contents, tuned, profile_name="p", profile_hash="h")
    return SnapshotSearch(snapshot, device)


@pytest.fixture(scope="module")
def searches():
    return {name: snapshot_search(name) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_measured_recall_is_right_and_high_enough(searches, name):
    search = searches[name]
    recall = search.snapshot.manifest.recall_at_10
    _, rows = search.search(QUERIES, 10)
    recalled = (rows[:, :, None] == EXPECTED[:, None, :10] + 1).any(axis=2).mean()
    assert recalled == pytest.approx(recall, abs=0.03)
    assert recall >= (0.9 if name == "ivf_pq" else 0.99)
    assert KINDS[name].exact == (recall == 1.0 and name == "exact")


@pytest.mark.parametrize("name", KINDS)
def test_scores_come_from_the_whole_vectors(searches, name):
    scores, rows = searches[name].search(QUERIES, 10)
    true = np.take_along_axis(QUERIES @ VECTORS.T, rows - 1, axis=1)
    assert np.allclose(scores, true, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 1e-6).all()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.005])
def test_filtered_search_returns_only_allowed_rows_and_enough_of_them(searches, name, share):
    search = searches[name]
    allowed = np.random.default_rng(2).random(N) < share
    _, rows = search.search(QUERIES, 10, allowed)
    assert rows.shape == (len(QUERIES), 10)
    assert allowed[rows - 1].all()
    order = np.where(allowed[EXPECTED], EXPECTED, -1)
    best = np.stack([line[line >= 0][:10] for line in order])
    recall = (rows[:, :, None] == best[:, None] + 1).any(axis=2).mean()
    assert recall >= (1.0 if name == "exact" or share * N <= SCAN_ROWS else 0.9)


@pytest.mark.parametrize("name", KINDS)
def test_single_allowed_row_is_found_even_if_it_is_the_farthest(searches, name):
    allowed = np.zeros(N, np.bool_)
    allowed[EXPECTED[0, -1]] = True
    _, rows = searches[name].search(QUERIES[:1], 10, allowed)
    assert rows.tolist() == [[EXPECTED[0, -1] + 1]]


@pytest.mark.parametrize("name", KINDS)
def test_large_top_k_is_answered_completely(searches, name):
    """Top 1,000 is more than the few lists of an IVF contain, and more than HNSW visits."""
    _, rows = searches[name].search(QUERIES[:2], 1000)
    assert (rows > 0).all()
    assert all(len(set(line)) == 1000 for line in rows.tolist())


@pytest.mark.parametrize("name", KINDS)
def test_removed_rows_are_not_returned(searches, name):
    search = searches[name]
    search.removed[:] = False
    nearest = EXPECTED[:, :30]
    search.remove(nearest.ravel() + 1)
    search.remove(np.array([10**9]))  # not in the snapshot
    assert search.live == N - len(np.unique(nearest))
    _, rows = search.search(QUERIES, 10)
    assert not set(rows.ravel()) & set(nearest.ravel() + 1)
    assert (rows > 0).all()
    search.removed[:] = True
    assert search.search(QUERIES, 10)[1].shape == (len(QUERIES), 0)
    search.removed[:] = False


@pytest.mark.parametrize("count", [0, 1, 2, 11, 50])
@pytest.mark.parametrize("name", KINDS)
def test_small_corpora_are_answered_completely(name, count):
    search = snapshot_search(name, VECTORS[:count])
    _, rows = search.search(QUERIES, 10)
    assert rows.shape == (len(QUERIES), min(10, count))
    assert all(len(set(line)) == min(10, count) for line in rows.tolist())


def test_blas_threshold_and_threads_are_set():
    faiss = faiss_index.faiss_module()
    assert faiss.cvar.distance_compute_blas_threshold == faiss_index.BLAS_THRESHOLD
    assert faiss.omp_get_max_threads() == 1


@pytest.mark.parametrize("name", KINDS)
def test_memory_estimate_equals_the_size_of_the_faiss_index(name):
    kind = KINDS[name]
    parameters = kinds.default_parameters(kind, N, D)
    index = faiss_index.build_index(kind, VECTORS, parameters)
    size = len(faiss_index.faiss_module().serialize_index(index))
    assert kinds.memory_bytes(kind, parameters, N, D) == pytest.approx(size, rel=0.15, abs=40_000)


def test_pq_is_trained_without_polysemous_codes():
    index = faiss_index.build_index(IVF_PQ, VECTORS, kinds.default_parameters(IVF_PQ, N, D))
    assert not index.do_polysemous_training


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (
            EXACT,
            {"nprobe": 3},
            r"'nprobe' is not a parameter of kind 'exact'; .* \(none\)",
        ),
        (IVF, {"ef_search": 3}, "expected one of nlist, nprobe"),
        (IVF, {"nprobe": 0}, "nprobe = 0 does not fit"),
        (IVF_PQ, {"m": 7}, "m = 7 does not fit 3000 vectors of 32"),
    ],
)
def test_invalid_parameters_are_refused(kind, parameters, message):
    with pytest.raises(InvalidInputError, match=message):
        kinds.complete_parameters(kind, parameters, N, D)


def test_default_parameters_depend_on_the_size_of_the_corpus():
    assert kinds.default_parameters(IVF, 1_000_000, 256)["nlist"] == 4096
    assert kinds.default_parameters(IVF, 100_000, 256)["nlist"] == 1024
    assert kinds.default_parameters(IVF, 100, 256)["nlist"] == 2
    assert kinds.default_parameters(IVF_PQ, 1000, 2048)["m"] == 512
    assert kinds.default_parameters(IVF_PQ, 1000, 30)["m"] == 6
    assert kinds.default_parameters(EXACT, 5, 256) == {}


def test_effort_is_the_least_that_reaches_the_target(monkeypatch):
    tried = []

    def recall(self, positions):
        return 0.95 if tried[-1] >= 37 else 0.9

    def record_effort(kind, index, vectors, truth, parameters):
        tried.append(parameters["nprobe"])

    monkeypatch.setattr(GroundTruth, "recall", recall)
    monkeypatch.setattr("lensemble.index.snapshots.tune.search_index", record_effort)
    tuned = build_for_plan(IndexPlan("ivf", recall=0.95, parameters={"nlist": 70}), VECTORS)
    assert 37 <= tuned.parameters["nprobe"] <= 37 * 1.25
    assert tried[:7] == [1, 2, 4, 8, 16, 32, 64]


def test_effort_of_binary_codes_is_the_number_of_rescored_candidates():
    """One bit per dimension says little about 32 dimensions of noise, so many must be re-scored."""
    noise = np.random.default_rng(5).standard_normal((3000, 32)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    tuned = build_for_plan(IndexPlan("binary", recall=0.99), noise)
    assert tuned.recall >= 0.99
    assert tuned.parameters["rerank"] > 16
    easier = build_for_plan(IndexPlan("binary", recall=0.5), noise)
    assert easier.parameters["rerank"] < tuned.parameters["rerank"]
    fixed = build_for_plan(IndexPlan("binary", recall=0.99, parameters={"rerank": 3}), noise)
    assert fixed.parameters == {"rerank": 3}


def test_auto_chooses_by_size_recall_and_memory(monkeypatch):
    monkeypatch.setattr("lensemble.index.snapshots.tune.EXACT_ROWS", 1000)
    monkeypatch.setattr("lensemble.index.snapshots.tune.exact_is_faster", lambda *_: False)
    assert build_for_plan(IndexPlan(), VECTORS[:1000]).kind is EXACT
    many = build_for_plan(IndexPlan(recall=0.95), VECTORS)
    assert (many.kind, many.recall >= 0.95) == (IVF, True)
    easier = build_for_plan(IndexPlan(recall=0.5), VECTORS)
    assert easier.parameters["nprobe"] < many.parameters["nprobe"]
    # Enough memory for SQ8, but not for the full-precision vectors.
    enough = kinds.memory_bytes(IVF_SQ8, kinds.default_parameters(IVF_SQ8, N, D), N, D)
    assert build_for_plan(IndexPlan(memory_bytes=enough), VECTORS).kind is IVF_SQ8


def test_auto_chooses_exact_if_it_is_faster(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("lensemble.index.snapshots.tune.EXACT_ROWS", 1000)
    monkeypatch.setattr("lensemble.index.snapshots.tune.exact_is_faster", lambda *_: True)
    assert build_for_plan(IndexPlan(recall=0.95), VECTORS).kind is EXACT
    assert "is faster than exact search" in caplog.text


@pytest.mark.parametrize(
    ("exact_s", "index_s", "faster"),
    [
        ((5, 1, 1), (2, 2, 2), True),
        ((1, 3, 3), (2, 2, 2), False),
        ((2, 2, 2), (2, 2, 2), False),
    ],
)
def test_exact_is_faster_compares_median_times(monkeypatch, exact_s, index_s, faster):
    ticks, now = [], 0
    for exact, index in zip(exact_s, index_s, strict=True):
        ticks += [now, now + exact, now + exact + index]  # read before, between and after
        now += exact + index
    clock = SimpleNamespace(perf_counter=iter(ticks).__next__)
    monkeypatch.setattr("lensemble.index.snapshots.tune.time", clock)
    tuned = TunedIndex(EXACT, {}, faiss_index.build_index(EXACT, VECTORS, {}))
    assert exact_is_faster(tuned, VECTORS) == faster


def test_ivf_must_search_most_lists_of_vectors_without_clusters():
    """The reason why `auto` may choose exact search, as a count instead of a time."""
    noise = np.random.default_rng(5).standard_normal((3000, 32)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    tuned = build_for_plan(IndexPlan("ivf"), noise)
    assert tuned.recall >= 0.99
    assert tuned.parameters["nprobe"] > tuned.parameters["nlist"] / 2


def test_auto_warns_if_no_kind_reaches_the_recall(monkeypatch, caplog):
    monkeypatch.setattr("lensemble.index.snapshots.tune.EXACT_ROWS", 1000)
    monkeypatch.setattr(GroundTruth, "recall", lambda *_: 0.97)
    tuned = build_for_plan(IndexPlan(recall=0.98, memory_bytes=1), VECTORS)
    assert tuned.kind is IVF_PQ
    assert "no index within 1 bytes reaches a recall of 0.98; the index is ivf_pq" in caplog.text


def test_index_plan_out_of_range_is_refused():
    for recall in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInputError, match="expected above 0, at most 1"):
            IndexPlan(recall=recall)
    with pytest.raises(InvalidInputError, match="-1 is negative"):
        IndexPlan(memory_bytes=-1)
    assert IndexPlan.from_json(IndexPlan("ivf", 0.9, 5, {"nprobe": 3}).to_json()).parameters == {
        "nprobe": 3
    }


def test_query_from_the_corpus_is_not_its_own_neighbour():
    truth = GroundTruth.compute(VECTORS)
    assert (truth.neighbours != truth.own_positions[:, None]).all()
    assert truth.recall(truth.neighbours) == 1
    assert truth.recall(np.full_like(truth.neighbours, -1)) == 0
    half = truth.neighbours.copy()
    half[:, 5:] = -1
    assert truth.recall(half) == pytest.approx(0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not faiss_index.gpu_count(), reason="FAISS has no GPU here")
@pytest.mark.parametrize("kind", [EXACT, FP16, IVF, IVF_SQ8])
def test_gpu_search_equals_cpu_search(searches, kind):
    search = snapshot_search(kind.name, device="cuda:0")
    assert search.is_on_gpu
    cpu = searches[kind.name]
    allowed = np.random.default_rng(3).random(N) < 0.3
    for mask in (None, allowed):
        _, rows = search.search(QUERIES, 10, mask)
        _, expected = cpu.search(QUERIES, 10, mask)
        assert (rows == expected).mean() > 0.98
        assert mask is None or mask[rows - 1].all()


def test_search_without_selectors_returns_only_allowed_rows(searches):
    """As on GPUs, where FAISS ignores selectors: no selector is used."""
    assert {kind for kind in KINDS.values() if not kind.on_gpu} == {SQ8, HNSW, BINARY, IVF_BINARY}
    for name in ("exact", "ivf", "ivf_sq8"):
        snapshot = searches[name].snapshot
        search = SnapshotSearch(snapshot)
        search._copy = FaissSearch(snapshot, snapshot.index, on_gpu=True)
        for share in (0.5, 0.1, 0.005):
            allowed = np.random.default_rng(4).random(N) < share
            _, rows = search.search(QUERIES, 10, allowed)
            assert allowed[rows - 1].all()
            assert (rows > 0).all()


def test_equal_scores_are_ordered_by_row():
    """FAISS returns them in any order."""
    vectors = VECTORS.copy()
    vectors[100:140] = vectors[7]
    scores, rows = snapshot_search("exact", vectors).search(vectors[[7, 1]], 60)
    assert rows[0, :41].tolist() == [8, *range(101, 141)]
    assert (np.diff(scores, axis=1) <= 0).all()


def test_searching_on_the_cpu_does_not_import_pytorch(tmp_path):
    """It takes seconds and a third of a gigabyte in the process of the `faiss` model."""
    code = (
        "import sys; from tests.unit.index.test_kinds import snapshot_search, QUERIES;"
        "snapshot_search('exact').search(QUERIES, 3); print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
