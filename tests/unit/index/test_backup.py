"""Backups: consistent copies of an index, restored completely, refused if they are damaged."""

import json
import shutil
from dataclasses import replace

import numpy as np
import psutil
import pytest

from lensemble.index import Query
from lensemble.index.maintenance.backup import back_up, restore
from lensemble.index.maintenance.compact import compact
from lensemble.index.maintenance.create import BACKUP_FILE, ensure_index, write_index
from lensemble.index.maintenance.export import ITEMS_FILE, VECTORS_FILE, export
from lensemble.index.maintenance.verify import verify
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.snapshots.manifest import SNAPSHOTS
from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.index.storage.schema import STORE_FILE
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_cli.main import main
from lensemble_contract.errors import InvalidInputError, StorageError
from tests.paths import CHECKPOINT

PROFILE = Profile.load(CHECKPOINT)
N, D = 400, 16


@pytest.fixture(scope="module")
def vectors():
    vectors = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path, vectors):
    documents = [json.dumps({"n": n, "ñ": "é"}) for n in range(N)]
    ids = [f"é{n}" for n in range(N)]
    plan = IndexPlan("ivf_sq8", recall=0.9)
    write_index(tmp_path / "index", PROFILE, vectors, ids, documents, plan=plan, fields=["n"])
    return tmp_path / "index"


def first(index, vector):
    (hits,) = index.search(vector[None], 1)
    return hits[0].id


def test_restore_brings_back_the_moment_of_the_backup(folder, tmp_path, vectors):
    with Store.open(folder) as store, LiveIndex.open(folder, profile_hash=PROFILE.hash) as live:
        store.write([Upsert("late", -vectors[0]), Delete("é1")])
        assert back_up(folder, tmp_path / "backup") == N
        store.write([Upsert("later", -vectors[1]), Delete("é2"), Upsert("é3", -vectors[3])])
        assert first(live, -vectors[1]) == "later"
        assert restore(tmp_path / "backup", folder) == N
        assert first(live, -vectors[1]) != "later"
        assert first(live, vectors[2]) == "é2"
        assert first(live, vectors[3]) == "é3"
        assert first(live, -vectors[0]) == "late"
        assert "é1" not in {hit.id for hit in live.search(vectors[1:2], N)[0]}
        assert live.manifest["kind"] == "ivf_sq8"
        assert store.is_replaced
    with Store.open(folder) as store:
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert (store.fields, store.plan.kind) == (["n"], "ivf_sq8")
        assert store.write([Upsert("new", vectors[5])])[0] == store.sequence
        assert store.get(["é7"])[0].document == '{"n": 7, "ñ": "é"}'
    report = verify(folder)
    assert (report.items, report.snapshot_damage) == (N + 1, "")
    compact(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "index"]


def test_restored_index_of_another_profile_is_refused(folder, tmp_path, vectors):
    mean = replace(PROFILE, name="qwen3-vl-mean", pooling="mean")
    write_index(tmp_path / "mean", mean, vectors[:3], ["a", "b", "c"], ["{}"] * 3)
    back_up(tmp_path / "mean", tmp_path / "backup")
    with Store.open(folder) as store:
        hash_ = store.profile_hash
    with LiveIndex.open(folder, profile_hash=hash_) as live:
        restore(tmp_path / "backup", folder)
        opened = len(psutil.Process().open_files())
        for _ in range(3):
            with pytest.raises(InvalidInputError, match="cannot be compared") as caught:
                live.search(vectors[:1], 1)
            assert hash_ in str(caught.value)
            assert mean.hash in str(caught.value)
        assert len(psutil.Process().open_files()) == opened
        write_index(folder, PROFILE, vectors[:1], ["back"], ["{}"])
        assert first(live, vectors[0]) == "back"


def test_searcher_keeps_its_index_while_a_damaged_one_is_in_its_place(folder, vectors):
    with LiveIndex.open(folder) as live:
        own = folder.rename(folder.with_name("own"))
        with Store.create(folder, PROFILE, D) as store:
            store.write([Upsert("a", vectors[0])])
            store._connection.execute("UPDATE vectors SET vector = zeroblob(64)")
        for _ in range(2):
            with pytest.raises(StorageError, match="row 1 is damaged"):
                live.search(vectors[:1], 1)
        shutil.rmtree(folder)
        own.rename(folder)
        (hits,) = live.answer([Query(vectors[1], 1, '{"n": {"$lt": 2}}')])
        assert [hit.id for hit in hits] == ["é1"]


def test_backup_without_its_snapshot_can_be_restored(folder, tmp_path, vectors):
    with Store.open(folder) as store:
        (folder / SNAPSHOTS / store.snapshot / "index.faiss").unlink()
        (folder / SNAPSHOTS / store.snapshot).rename(folder / SNAPSHOTS / "0-gone")
    assert back_up(folder, tmp_path / "backup") == N
    restore(tmp_path / "backup", tmp_path / "other")
    with LiveIndex.open(tmp_path / "other") as live:
        assert (live.manifest["snapshot"], live.manifest["delta"]) == ("", N)
        assert first(live, vectors[9]) == "é9"


@pytest.mark.parametrize("name", [STORE_FILE, "index.faiss", "vectors.npy", "manifest.json"])
def test_damaged_backup_is_refused_and_the_index_is_unchanged(folder, tmp_path, vectors, name):
    back_up(folder, tmp_path / "backup")
    (path,) = (tmp_path / "backup").rglob(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(StorageError, match="is damaged: a checksum is wrong; take another backup"):
        restore(tmp_path / "backup", folder)
    with LiveIndex.open(folder) as live:
        assert first(live, vectors[9]) == "é9"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "index"]


def test_folder_that_is_not_a_backup_or_not_empty_is_refused(folder, tmp_path):
    with pytest.raises(InvalidInputError, match=r"is not a backup.*lensemble index snapshot"):
        restore(folder, tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InvalidInputError, match="is not empty; give a new folder"):
        back_up(folder, tmp_path / "full")
    back_up(folder, tmp_path / "backup")
    with pytest.raises(InvalidInputError, match="contains something other than an index"):
        restore(tmp_path / "backup", tmp_path / "full")
    (tmp_path / "backup" / BACKUP_FILE).write_text("[]")
    with pytest.raises(InvalidInputError, match="is not a backup"):
        restore(tmp_path / "backup", tmp_path / "x")
    (tmp_path / "backup" / STORE_FILE).unlink()
    with pytest.raises(InvalidInputError, match="is not a backup"):
        restore(tmp_path / "backup", tmp_path / "x")


def test_exported_files_have_all_vectors_and_documents(folder, tmp_path, vectors):
    assert export(folder, tmp_path / "out") == N
    assert np.array_equal(np.load(tmp_path / "out" / VECTORS_FILE), vectors)
    lines = (tmp_path / "out" / ITEMS_FILE).read_text("utf-8").splitlines()
    assert json.loads(lines[7]) == {"_id": "é7", "document": {"n": 7, "ñ": "é"}}
    with pytest.raises(InvalidInputError, match="exists already"):
        export(folder, tmp_path / "out")


def test_index_commands(folder, tmp_path, capsys):
    index, backup = str(folder), str(tmp_path / "backup")

    def run(*arguments):
        status = main(["index", *arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    assert run("stats", index)[0] == 0
    assert run("verify", index)[1].startswith(f"{index}: store undamaged, 400 items in 400 rows")
    assert run("snapshot", index, backup) == (0, f"400 items -> {backup}\n", "")
    status, out, _ = run("compact", index, "--kind", "hnsw", "--set", "ef_search=99")
    assert (status, "400 items, hnsw" in out, "'ef_search': 99" in out) == (0, True, True)
    assert (
        "recall@10 1.0000, up to sequence number 400" in run("compact", index, "--kind", "exact")[1]
    )
    status, _, err = run("compact", index, "--kind", "ivf", "--set", "ef_search=3")
    assert (status, "not a parameter of kind 'ivf'" in err) == (1, True)
    status, _, err = run("compact", index, "--set", "nprobe=3")
    assert (status, "parameters need a kind" in err) == (1, True)
    assert run("restore", backup, index) == (0, f"400 items -> {index}\n", "")
    status, out, _ = run("stats", index)
    stats = json.loads(out)
    assert stats["snapshot"]["kind"] == "ivf_sq8"
    assert (stats["count"], stats["fields"], stats["plan"]["recall"]) == (N, ["n"], 0.9)
    (vectors_file,) = folder.rglob("vectors.npy")
    vectors_file.write_bytes(b"")
    status, out, err = run("verify", index)
    assert (status, "store undamaged" in out) == (1, True)
    assert f"run `lensemble index compact {index}`" in err
    assert run("compact", index, "--fields", "n,ñ")[0] == 0
    assert run("verify", index)[0] == 0
    assert run("export", index, str(tmp_path / "out"))[0] == 0
    assert run("verify", str(tmp_path))[0] == 1


def test_tune_prints_a_table_and_draws_a_plot(folder, tmp_path, capsys, vectors, monkeypatch):
    monkeypatch.setattr("lensemble.index.snapshots.measure._MIN_SECONDS", 0)
    np.save(tmp_path / "queries.npy", vectors[:20])
    plot, figures = tmp_path / "plots" / "tune.png", tmp_path / "tune.json"
    arguments = ["index", "tune", str(folder), "--kinds", "exact,ivf,hnsw"]
    assert main([*arguments, "--json", str(figures), "--plot", str(plot)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "parameters", "recall@10", "ms,", "1", "ms,", "32", "MiB"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    points = json.loads(figures.read_text())
    assert {point["kind"] for point in points} == {"exact", "ivf", "hnsw"}
    recalls = [point["recall_at_10"] for point in points if point["kind"] == "ivf"]
    assert recalls[-1] == 1
    assert recalls == sorted(recalls)
    assert main([*arguments, "--queries", str(tmp_path / "queries.npy")]) == 0
    assert main([*arguments[:3], "--kinds", "nothing"]) == 1
    assert "'nothing'; expected one of exact, fp16" in capsys.readouterr().err
    np.save(tmp_path / "queries.npy", vectors[0])
    assert main([*arguments, "--queries", str(tmp_path / "queries.npy")]) == 1
    assert "expected (Q, 16)" in capsys.readouterr().err


def test_tune_measures_only_exact_search_on_a_few_items(tmp_path, capsys, vectors, monkeypatch):
    """Other kinds cannot be trained on them; a served index of that size is exact, too."""
    monkeypatch.setattr("lensemble.index.snapshots.measure._MIN_SECONDS", 0)
    folder = tmp_path / "small"
    write_index(folder, PROFILE, vectors[:60], [str(n) for n in range(60)], ["{}"] * 60)
    assert main(["index", "tune", str(folder)]) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == ["kind", "exact"]
    assert "fewer than 256 items" in printed.err
    assert main(["index", "tune", str(folder), "--kinds", "exact,ivf_pq"]) == 1
    assert "kinds: 'ivf_pq' needs 256 items, and the index has 60" in capsys.readouterr().err


def test_ensure_index_creates_an_empty_index_once(tmp_path):
    folder = tmp_path / "a" / "index"
    ensure_index(folder, PROFILE)
    with Store.open(folder) as store:
        assert (len(store), store.dimension) == (0, PROFILE.dimension)
        store.write([Upsert("x", np.eye(PROFILE.dimension, dtype=np.float32)[0])])
        ensure_index(folder, PROFILE)
        assert len(store) == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["index"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InvalidInputError, match="contains something other than an index"):
        ensure_index(tmp_path / "other", PROFILE)
