"""Kinds of index: what the installed FAISS really does, and what each kind finds."""

import numpy as np
import pytest

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
from lensemble.index.snapshots.tune import build_for_plan
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.read_results import StoreContents
from lensemble_client import InvalidInputError

N, D = 3000, 32


def clustered(count, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((60, D))
    vectors = centres[rng.integers(60, size=count)] + 0.5 * rng.standard_normal((count, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = clustered(N), clustered(40, seed=1)
EXPECTED = np.argsort(-(QUERIES @ VECTORS.T), axis=1, kind="stable")


def base_of(kind, vectors=VECTORS, device="cpu", **parameters):
    contents = StoreContents(1, len(vectors), np.arange(1, len(vectors) + 1), vectors)
    tuned = build_for_plan(IndexPlan(kind, parameters=parameters), vectors)
    snapshot = Snapshot.from_contents(contents, tuned, profile_name="p", profile_hash="h")
    return SnapshotSearch(snapshot, device)


@pytest.fixture(scope="module")
def bases():
    return {name: base_of(name) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_recall_is_measured_and_reached(bases, name):
    base = bases[name]
    recall = base.snapshot.manifest.recall_at_10
    _, rows = base.search(QUERIES, 10)
    hit = (rows[:, :, None] == EXPECTED[:, None, :10] + 1).any(axis=2).mean()
    assert hit == pytest.approx(recall, abs=0.03)
    assert recall >= (0.9 if name == "ivf_pq" else 0.99)
    assert KINDS[name].exact == (recall == 1.0 and name == "exact")


@pytest.mark.parametrize("name", KINDS)
def test_scores_are_true_whatever_the_codes(bases, name):
    scores, rows = bases[name].search(QUERIES, 10)
    true = np.take_along_axis(QUERIES @ VECTORS.T, rows - 1, axis=1)
    assert np.allclose(scores, true, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 1e-6).all()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.005])
def test_filtered_search_never_shows_others_and_never_comes_short(bases, name, share):
    base = bases[name]
    allowed = np.random.default_rng(2).random(N) < share
    _, rows = base.search(QUERIES, 10, allowed)
    assert rows.shape == (len(QUERIES), 10)
    assert allowed[rows - 1].all()
    order = np.where(allowed[EXPECTED], EXPECTED, -1)
    best = np.stack([line[line >= 0][:10] for line in order])
    recall = (rows[:, :, None] == best[:, None] + 1).any(axis=2).mean()
    assert recall >= (1.0 if name == "exact" or share * N <= SCAN_ROWS else 0.9)


@pytest.mark.parametrize("name", KINDS)
def test_one_allowed_row_is_found_however_far_away(bases, name):
    allowed = np.zeros(N, np.bool_)
    allowed[EXPECTED[0, -1]] = True
    _, rows = bases[name].search(QUERIES[:1], 10, allowed)
    assert rows.tolist() == [[EXPECTED[0, -1] + 1]]


@pytest.mark.parametrize("name", KINDS)
def test_all_of_a_large_answer_is_there(bases, name):
    """More than an IVF's few lists hold, and more than HNSW looks at."""
    _, rows = bases[name].search(QUERIES[:2], 1000)
    assert (rows > 0).all()
    assert all(len(set(line)) == 1000 for line in rows.tolist())


@pytest.mark.parametrize("name", KINDS)
def test_removed_rows_are_not_shown(bases, name):
    base = bases[name]
    base.removed[:] = False
    nearest = EXPECTED[:, :30]
    base.remove(nearest.ravel() + 1)
    base.remove(np.array([10**9]))  # not in it
    assert base.live == N - len(np.unique(nearest))
    _, rows = base.search(QUERIES, 10)
    assert not set(rows.ravel()) & set(nearest.ravel() + 1)
    assert (rows > 0).all()
    base.removed[:] = True
    assert base.search(QUERIES, 10)[1].shape == (len(QUERIES), 0)
    base.removed[:] = False


@pytest.mark.parametrize("count", [0, 1, 2, 11, 50])
@pytest.mark.parametrize("name", KINDS)
def test_small_corpora(name, count):
    base = base_of(name, VECTORS[:count])
    _, rows = base.search(QUERIES, 10)
    assert rows.shape == (len(QUERIES), min(10, count))
    assert all(len(set(line)) == min(10, count) for line in rows.tolist())


def test_blas_threshold_and_threads_are_set():
    faiss = faiss_index.faiss_module()
    assert faiss.cvar.distance_compute_blas_threshold == faiss_index.BLAS_THRESHOLD
    assert faiss.omp_get_max_threads() == 1


@pytest.mark.parametrize("name", KINDS)
def test_what_faiss_makes_is_what_memory_is_counted_for(name):
    kind = KINDS[name]
    parameters = kinds.default_parameters(kind, N, D)
    index = faiss_index.build_index(kind, VECTORS, parameters)
    size = len(faiss_index.faiss_module().serialize_index(index))
    assert kinds.memory_bytes(kind, parameters, N, D) == pytest.approx(size, rel=0.15, abs=40_000)


def test_pq_is_trained_without_polysemous_codes():
    index = faiss_index.build_index(IVF_PQ, VECTORS, kinds.default_parameters(IVF_PQ, N, D))
    assert not index.do_polysemous_training


@pytest.mark.parametrize(
    ("kind", "parameters", "said"),
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
def test_parameters_that_do_not_fit_are_refused(kind, parameters, said):
    with pytest.raises(InvalidInputError, match=said):
        kinds.complete_parameters(kind, parameters, N, D)


def test_defaults_go_by_size():
    assert kinds.default_parameters(IVF, 1_000_000, 256)["nlist"] == 4096
    assert kinds.default_parameters(IVF, 100_000, 256)["nlist"] == 1024
    assert kinds.default_parameters(IVF, 100, 256)["nlist"] == 2
    assert kinds.default_parameters(IVF_PQ, 1000, 2048)["m"] == 512
    assert kinds.default_parameters(IVF_PQ, 1000, 30)["m"] == 6
    assert kinds.default_parameters(EXACT, 5, 256) == {}


def test_effort_is_the_least_that_reaches_the_target(monkeypatch):
    asked = []

    def recall(self, found):
        return 0.95 if asked[-1] >= 37 else 0.9

    def spied(kind, index, vectors, truth, parameters):
        asked.append(parameters["nprobe"])

    monkeypatch.setattr(GroundTruth, "recall", recall)
    monkeypatch.setattr("lensemble.index.snapshots.tune.search_index", spied)
    tuned = build_for_plan(IndexPlan("ivf", recall=0.95, parameters={"nlist": 70}), VECTORS)
    assert 37 <= tuned.parameters["nprobe"] <= 37 * 1.25
    assert asked[:7] == [1, 2, 4, 8, 16, 32, 64]


def test_effort_of_one_bit_is_how_many_candidates_are_scored():
    """A bit for each of 32 dimensions of noise says little: many must be looked at again."""
    noise = np.random.default_rng(5).standard_normal((3000, 32)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    tuned = build_for_plan(IndexPlan("binary", recall=0.99), noise)
    assert tuned.recall >= 0.99
    assert tuned.parameters["rerank"] > 16
    easier = build_for_plan(IndexPlan("binary", recall=0.5), noise)
    assert easier.parameters["rerank"] < tuned.parameters["rerank"]
    fixed = build_for_plan(IndexPlan("binary", recall=0.99, parameters={"rerank": 3}), noise)
    assert fixed.parameters == {"rerank": 3}


def test_auto_takes_exact_for_few_and_lists_for_many(monkeypatch):
    monkeypatch.setattr("lensemble.index.snapshots.tune.EXACT_ROWS", 1000)
    monkeypatch.setattr("lensemble.index.snapshots.tune.exact_is_faster", lambda *_: False)
    assert build_for_plan(IndexPlan(), VECTORS[:1000]).kind is EXACT
    many = build_for_plan(IndexPlan(recall=0.95), VECTORS)
    assert (many.kind, many.recall >= 0.95) == (IVF, True)
    easier = build_for_plan(IndexPlan(recall=0.5), VECTORS)
    assert easier.parameters["nprobe"] < many.parameters["nprobe"]
    # As much as SQ8 takes, but not the whole vectors.
    some = kinds.memory_bytes(IVF_SQ8, kinds.default_parameters(IVF_SQ8, N, D), N, D)
    assert build_for_plan(IndexPlan(memory_bytes=some), VECTORS).kind is IVF_SQ8


def test_auto_takes_exact_where_enough_effort_costs_more(monkeypatch, caplog):
    """Vectors without clusters: to find 0.99, IVF must look into nearly all of its lists."""
    caplog.set_level("INFO")
    noise = np.random.default_rng(5).standard_normal((30_000, 64)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    tuned = build_for_plan(IndexPlan(), noise)
    assert tuned.kind is EXACT
    assert "is faster than exact search" in caplog.text


def test_auto_says_so_where_nothing_reaches_the_target(monkeypatch, caplog):
    monkeypatch.setattr("lensemble.index.snapshots.tune.EXACT_ROWS", 1000)
    monkeypatch.setattr(GroundTruth, "recall", lambda *_: 0.97)
    tuned = build_for_plan(IndexPlan(recall=0.98, memory_bytes=1), VECTORS)
    assert tuned.kind is IVF_PQ
    assert "no index within 1 bytes reaches a recall of 0.98; the index is ivf_pq" in caplog.text


def test_plan_outside_its_limits_is_refused():
    for wrong in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInputError, match="expected above 0, at most 1"):
            IndexPlan(recall=wrong)
    with pytest.raises(InvalidInputError, match="-1 is negative"):
        IndexPlan(memory_bytes=-1)
    assert IndexPlan.from_json(IndexPlan("ivf", 0.9, 5, {"nprobe": 3}).to_json()).parameters == {
        "nprobe": 3
    }


def test_a_vector_of_the_corpus_is_not_its_own_neighbour():
    truth = GroundTruth.compute(VECTORS)
    assert (truth.neighbours != truth.own[:, None]).all()
    assert truth.recall(truth.neighbours) == 1
    assert truth.recall(np.full_like(truth.neighbours, -1)) == 0
    half = truth.neighbours.copy()
    half[:, 5:] = -1
    assert truth.recall(half) == pytest.approx(0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not faiss_index.gpu_count(), reason="FAISS has no GPU here")
@pytest.mark.parametrize("kind", [EXACT, FP16, IVF, IVF_SQ8])
def test_on_a_gpu_as_on_the_cpu(bases, kind):
    base = base_of(kind.name, device="cuda:0")
    assert base._gpu
    cpu = bases[kind.name]
    allowed = np.random.default_rng(3).random(N) < 0.3
    for mask in (None, allowed):
        _, rows = base.search(QUERIES, 10, mask)
        _, expected = cpu.search(QUERIES, 10, mask)
        assert (rows == expected).mean() > 0.98
        assert mask is None or mask[rows - 1].all()


def test_without_a_gpu_the_cpu_searches(caplog):
    if faiss_index.gpu_count():
        pytest.skip("there is one")
    base = base_of("exact", device="cuda:0")
    assert not base._gpu
    assert base.search(QUERIES, 10)[1].tolist() == (EXPECTED[:, :10] + 1).tolist()


def test_a_gpu_that_drops_selectors_shows_nothing_it_must_not(bases):
    """Plain FAISS on GPUs ignores selectors: the same searches, with no selector ever given."""
    assert {kind for kind in KINDS.values() if not kind.on_gpu} == {SQ8, HNSW, BINARY, IVF_BINARY}
    for name in ("exact", "ivf", "ivf_sq8"):
        base = SnapshotSearch(bases[name].snapshot)
        base._gpu = True
        for share in (0.5, 0.1, 0.005):
            allowed = np.random.default_rng(4).random(N) < share
            _, rows = base.search(QUERIES, 10, allowed)
            assert allowed[rows - 1].all()
            assert (rows > 0).all()
