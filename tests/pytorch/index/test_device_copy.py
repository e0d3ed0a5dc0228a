"""Snapshots that a GPU searches: what is copied, what stays on the CPU, and what a failure does."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lensemble.index.maintenance.compact import compact
from lensemble.index.search import device_copy
from lensemble.index.search.device_copy import CannotCopyError, TorchCopy, choose_copy
from lensemble.index.search.faiss_search import FaissSearch
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.search.snapshot_search import SCAN_ROWS, SnapshotSearch
from lensemble.index.snapshots.snapshot import Snapshot
from lensemble.index.snapshots.torch_search import TorchSearch, device_bytes
from lensemble.index.snapshots.tune import build_for_plan
from lensemble.index.storage.changes import Upsert
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.read_results import StoreContents
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from tests.paths import CHECKPOINT
from tests.waiting import DEADLINE_S, until

N, D = 3000, 32
CPU = torch.device("cpu")
ENOUGH = 2**40


def clustered(count, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((60, D))
    vectors = centres[rng.integers(60, size=count)] + 0.5 * rng.standard_normal((count, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = clustered(N), clustered(40, seed=1)


def make_snapshot(kind, vectors=VECTORS):
    contents = StoreContents(1, len(vectors), np.arange(1, len(vectors) + 1), vectors)
    tuned = build_for_plan(IndexPlan(kind), vectors)
    return Snapshot.from_contents(contents, tuned, profile_name="p", profile_hash="h")


@pytest.fixture(scope="module")
def exact():
    return make_snapshot("exact")


@pytest.fixture
def simulated_gpu(monkeypatch):
    """What would be copied to `cuda:0` is copied to CPU tensors; returns the free memory."""
    memory = SimpleNamespace(free=ENOUGH)

    choose = device_copy.choose_copy
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device_copy, "free_bytes", lambda device, reserved: memory.free - reserved)
    monkeypatch.setattr(
        device_copy, "choose_copy", lambda snapshot, device, free: choose(snapshot, CPU, free)
    )
    return memory


@pytest.mark.parametrize(
    ("free", "originals"),
    [
        (device_bytes(N, D, vectors_on_device=True), True),
        (device_bytes(N, D, vectors_on_device=True) - 1, False),
        (device_bytes(N, D, vectors_on_device=False), False),
    ],
)
def test_original_vectors_are_copied_if_they_fit(monkeypatch, exact, free, originals):
    asked, load = [], TorchSearch.load

    def record(vectors, device, *, vectors_on_device):
        asked.append(vectors_on_device)
        return load(vectors, device, vectors_on_device=vectors_on_device)

    monkeypatch.setattr(TorchSearch, "load", record)
    assert isinstance(choose_copy(exact, CPU, free), TorchCopy)
    assert asked == [originals]


def test_snapshot_that_does_not_fit_stays_on_the_cpu_with_one_line(exact, simulated_gpu, caplog):
    simulated_gpu.free = device_bytes(N, D, vectors_on_device=False) - 1
    search = SnapshotSearch(exact, "cuda:0")
    assert not search.is_on_gpu and search.lacks_memory
    (record,) = caplog.records
    assert record.message.endswith("it needs 0.54 GB on the GPU, and 0.54 GB are free")
    expected = SnapshotSearch(exact).search(QUERIES, 10)
    np.testing.assert_array_equal(search.search(QUERIES, 10)[1], expected[1])


def test_memory_of_others_is_reserved(exact, simulated_gpu):
    needed = device_bytes(N, D, vectors_on_device=False)
    simulated_gpu.free = needed + 500
    assert SnapshotSearch(exact, "cuda:0", 500).is_on_gpu
    assert not SnapshotSearch(exact, "cuda:0", 501).is_on_gpu


@pytest.mark.parametrize(
    ("free", "reserved", "expected"),
    [
        (80, 0, 60),  # a quarter of the whole is left to the encoder's activations
        (80, 16, 44),  # and its weights
        (30, 16, 30),  # they are loaded already, and other things, too
        (5, 90, -30),
    ],
)
def test_free_memory_leaves_room_for_the_encoder(monkeypatch, free, reserved, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 2**30, 80 * 2**30))
    assert device_copy.free_bytes(CPU, reserved * 2**30) == expected * 2**30


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("hnsw", "nothing searches kind 'hnsw' on a GPU, unlike kind 'exact'"),
        ("ivf", "kind 'ivf' needs FAISS for GPUs: install the extra `search-gpu` instead"),
    ],
)
def test_kinds_that_the_gpu_cannot_search_stay_on_the_cpu(monkeypatch, caplog, kind, reason):
    # Not even a CUDA context, which takes memory.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("touches the GPU"))
    search = SnapshotSearch(make_snapshot(kind), "cuda:0")
    assert not search.is_on_gpu and not search.lacks_memory
    assert f"is searched on the CPU: {reason}" in caplog.text


def test_empty_snapshot_stays_on_the_cpu(simulated_gpu, caplog):
    search = SnapshotSearch(make_snapshot("exact", VECTORS[:0]), "cuda:0")
    assert search.search(QUERIES, 10)[1].shape == (40, 0)
    assert "is searched on the CPU: it is empty" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_cpu_searches(exact, caplog):
    search = SnapshotSearch(exact, "cuda:0")
    assert not search.is_on_gpu
    assert "is searched on the CPU: PyTorch finds no GPU" in caplog.text
    expected = SnapshotSearch(exact).search(QUERIES, 10)
    np.testing.assert_array_equal(search.search(QUERIES, 10)[1], expected[1])


@pytest.mark.parametrize(
    "error", [RuntimeError("no driver\nlong"), torch.OutOfMemoryError("full"), ValueError("long")]
)
def test_failed_copy_leaves_the_search_on_the_cpu(monkeypatch, exact, caplog, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (ENOUGH, ENOUGH))
    monkeypatch.setattr(device_copy, "choose_copy", fail)
    search = SnapshotSearch(exact, "cuda:0")
    assert not search.is_on_gpu
    assert search.lacks_memory == isinstance(error, torch.OutOfMemoryError)
    assert str(error).splitlines()[0] in caplog.text and "\n" not in caplog.records[0].message


@pytest.mark.parametrize("share", [None, 0.5, 0.35, 0.1, 0.001])
@pytest.mark.parametrize("removed", [0, 30, 2500, N])
def test_gpu_search_of_a_snapshot_equals_the_cpus(exact, simulated_gpu, share, removed):
    allowed = None if share is None else np.random.default_rng(2).random(N) < share
    searches = SnapshotSearch(exact), SnapshotSearch(exact, "cuda:0")
    found = []
    for search in searches:
        search.remove(np.random.default_rng(3).permutation(N)[:removed] + 1)
        found.append(search.search(QUERIES, 10, allowed))
    assert searches[1].is_on_gpu
    np.testing.assert_allclose(found[1][0], found[0][0], atol=1e-6)
    assert (found[1][1] != found[0][1]).sum() <= 0.01 * found[0][1].size
    assert searches[1]._failures == 0


def test_gpu_compares_one_by_one_only_what_few_rows_allow(exact, simulated_gpu, monkeypatch):
    monkeypatch.setattr("lensemble.index.search.snapshot_search.SCAN_SHARE", 0.9)
    scanned, scan = [], SnapshotSearch._scan
    monkeypatch.setattr(
        SnapshotSearch, "_scan", lambda *given: scanned.append(given[3].sum()) or scan(*given)
    )
    for count in (SCAN_ROWS, SCAN_ROWS + 1):
        allowed = np.arange(N) < count
        for device in ("cpu", "cuda:0"):
            SnapshotSearch(exact, device).search(QUERIES, 10, allowed)
    assert scanned == [SCAN_ROWS, SCAN_ROWS, SCAN_ROWS + 1]


class Failing:
    """A copy whose searches fail as often as is asked."""

    def __init__(self, copy, failures):
        self.copy, self.failures = copy, list(failures)

    def search(self, *arguments):
        if self.failures and (error := self.failures.pop(0)) is not None:
            raise error
        return self.copy.search(*arguments)


def test_failed_batch_is_searched_on_the_cpu_and_logged(exact, simulated_gpu, caplog):
    search = SnapshotSearch(exact, "cuda:0")
    expected = SnapshotSearch(exact).search(QUERIES, 10)[1]
    full = torch.OutOfMemoryError("CUDA out of memory\nmore")
    search._copy = Failing(search._copy, [full, full, None] * 3)
    for _ in range(9):
        np.testing.assert_array_equal(search.search(QUERIES, 10)[1], expected)
    assert search.is_on_gpu  # never three failures in a row
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 6
    assert errors[0].endswith("so the CPU searches for this batch: CUDA out of memory")


def test_copy_that_keeps_failing_is_given_up(exact, simulated_gpu, caplog):
    search = SnapshotSearch(exact, "cuda:0")
    expected = SnapshotSearch(exact).search(QUERIES, 10)[1]
    search._copy = Failing(search._copy, [torch.AcceleratorError("driver")] * 9)
    for _ in range(5):
        np.testing.assert_array_equal(search.search(QUERIES, 10)[1], expected)
    assert not search.is_on_gpu
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 3
    assert errors[-1].endswith("so the CPU searches it from now on: driver")


def test_copy_with_other_scores_than_the_cpus_is_refused(exact, monkeypatch):
    search = TorchSearch.search

    def wrong(self, *arguments):
        scores, positions = search(self, *arguments)
        return scores + 1e-3, positions

    monkeypatch.setattr(TorchSearch, "search", wrong)
    with pytest.raises(CannotCopyError, match=r"its scores there differ by 0.001 from the CPU's"):
        choose_copy(exact, CPU, ENOUGH)


@pytest.mark.parametrize(("faiss_s", "torch_s", "chosen"), [(1, 2, "FAISS"), (2, 1, "PyTorch")])
def test_faster_of_faiss_and_pytorch_is_chosen(
    monkeypatch, exact, caplog, faiss_s, torch_s, chosen
):
    caplog.set_level("INFO")
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)

    def slow(search, seconds):
        def timed(self, *arguments):
            clock.now += seconds
            return search(self, *arguments)

        return timed

    monkeypatch.setattr(device_copy, "time", clock)
    monkeypatch.setattr(device_copy, "gpu_count", lambda: 1)
    monkeypatch.setattr(device_copy, "to_gpu", lambda index, device: index)
    monkeypatch.setattr(FaissSearch, "search", slow(FaissSearch.search, faiss_s))
    monkeypatch.setattr(TorchCopy, "search", slow(TorchCopy.search, torch_s))
    copy = choose_copy(exact, CPU, ENOUGH)
    assert isinstance(copy, {"FAISS": FaissSearch, "PyTorch": TorchCopy}[chosen])
    assert f"exact search on cpu: {chosen} (PyTorch {torch_s}000.00 ms" in caplog.text


def test_faiss_is_not_tried_where_both_copies_do_not_fit(monkeypatch, exact):
    monkeypatch.setattr(device_copy, "gpu_count", lambda: 1)
    monkeypatch.setattr(device_copy, "to_gpu", lambda *_: pytest.fail("no room"))
    free = device_bytes(N, D, vectors_on_device=True) + device_copy._faiss_bytes(exact) - 1
    assert isinstance(choose_copy(exact, CPU, free), TorchCopy)


def test_copy_of_pytorch_stays_if_faiss_cannot_copy(monkeypatch, exact, caplog):
    def out_of_memory(*_):
        raise RuntimeError("Error in void* faiss::gpu::StandardGpuResourcesImpl::allocMemory")

    monkeypatch.setattr(device_copy, "gpu_count", lambda: 1)
    monkeypatch.setattr(device_copy, "to_gpu", out_of_memory)
    assert isinstance(choose_copy(exact, CPU, ENOUGH), TorchCopy)
    assert "exact search on cpu: FAISS is not used: Error in void* faiss::gpu" in caplog.text


def test_copy_of_pytorch_stays_if_the_scores_of_faiss_are_wrong(monkeypatch, exact, caplog):
    class WrongCopy(FaissSearch):
        def search(self, *arguments):
            scores, positions = super().search(*arguments)
            return scores + 0.001, positions

    monkeypatch.setattr(device_copy, "gpu_count", lambda: 1)
    monkeypatch.setattr(
        device_copy, "_faiss_copy", lambda snapshot, *_: WrongCopy(snapshot, snapshot.index)
    )
    assert isinstance(choose_copy(exact, CPU, ENOUGH), TorchCopy)
    assert "FAISS is not used: its scores there differ by 0.001" in caplog.text


@pytest.mark.parametrize(
    ("message", "lacks_memory"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_lack_of_memory_in_a_library_is_known_as_such(monkeypatch, exact, message, lacks_memory):
    def fail(*_):
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device_copy, "free_bytes", lambda *_: ENOUGH)
    monkeypatch.setattr(device_copy, "choose_copy", fail)
    with pytest.raises(CannotCopyError) as caught:
        device_copy.copy_to_device(exact, CPU, 0)
    assert caught.value.lacks_memory == lacks_memory


def test_faiss_copies_the_other_kinds(monkeypatch):
    monkeypatch.setattr(device_copy, "gpu_count", lambda: 1)
    monkeypatch.setattr(device_copy, "to_gpu", lambda index, device: index)
    snapshot = make_snapshot("ivf")
    needed = device_copy._faiss_bytes(snapshot)
    assert isinstance(choose_copy(snapshot, CPU, needed), FaissSearch)
    with pytest.raises(CannotCopyError, match=r"it needs 1.61 GB on the GPU, and 1.61 GB are free"):
        choose_copy(snapshot, CPU, needed - 1)


def test_new_snapshot_gets_the_memory_of_the_old_one(monkeypatch, tmp_path, simulated_gpu, caplog):
    """Both do not fit: the new one is searched on the CPU only until the old copy is dropped."""
    drop_copy = SnapshotSearch.drop_copy

    def drop(self):
        drop_copy(self)
        simulated_gpu.free = ENOUGH

    monkeypatch.setattr(SnapshotSearch, "drop_copy", drop)
    caplog.set_level("INFO")
    with Store.create(tmp_path / "index", Profile.load(CHECKPOINT), D) as store:
        store.write([Upsert(str(n), vector) for n, vector in enumerate(VECTORS[:100])])
        compact(store.folder)
        with LiveIndex.open(store.folder, "cuda:0") as live:
            assert live.manifest["on_gpu"]
            simulated_gpu.free = 0
            store.write([Upsert("new", VECTORS[200])])
            name = compact(store.folder).name
            live.refresh()
            live._loading.result(DEADLINE_S)
            assert live.search(VECTORS[200:201], 1)[0][0].id == "new"
            assert live.manifest["snapshot"] == name
            until(lambda: live.manifest["on_gpu"], "the new snapshot's copy")
            assert live.search(VECTORS[200:201], 1)[0][0].id == "new"
    told = [record.message.split(" is ")[-1] for record in caplog.records if name in record.message]
    assert [text for text in told if text.startswith("searched")] == [
        "searched on the CPU: it needs 0.54 GB on the GPU, and 0.00 GB are free",
        "searched on cuda:0",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("share", [None, 0.5])
def test_real_gpu_searches_an_exact_snapshot_like_the_cpu(exact, share):
    allowed = None if share is None else np.random.default_rng(2).random(N) < share
    search = SnapshotSearch(exact, "cuda:0")
    assert search.is_on_gpu
    found = search.search(QUERIES, 10, allowed)
    expected = SnapshotSearch(exact).search(QUERIES, 10, allowed)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    assert (found[1] != expected[1]).sum() <= 0.01 * expected[1].size
    search.drop_copy()
    assert not search.is_on_gpu
