"""Indexes as a whole: creating, replacing and searching them, and refusing what is not one."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensemble.index import Query
from lensemble.index.checks import check_profile, check_vector
from lensemble.index.maintenance.compact import compact
from lensemble.index.maintenance.create import ensure_index, write_index
from lensemble.index.search.live_index import LiveIndex
from lensemble.index.storage.changes import Upsert
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_contract.errors import InvalidInputError
from tests.paths import CHECKPOINT

PROFILE = Profile.load(CHECKPOINT)
AXIS_3 = np.eye(3, dtype=np.float32)[0]
IDS = ["a", "b/ñ", "c", "d"]


def write(folder, vectors=None, ids=IDS, **options):
    vectors = np.eye(4, dtype=np.float32) if vectors is None else vectors
    documents = [f'{{"n": {n}}}' for n in range(len(ids))]
    write_index(folder, PROFILE, vectors, ids, documents, **options)


def ids_in(folder):
    with Store.open(folder) as store:
        return {item.id for item in store.live_items()}


@pytest.fixture
def index(tmp_path):
    write(tmp_path / "index")
    with LiveIndex.open(tmp_path / "index") as opened:
        yield opened


def test_hits_are_sorted_by_score_and_have_the_callers_ids(index):
    query = np.array([[0.1, 0.9, 0.3, 0.0]], np.float32)
    (hits,) = index.search(query, 3)
    assert [(hit.id, hit.score, hit.document) for hit in hits] == [
        ("b/ñ", pytest.approx(0.9), '{"n": 1}'),
        ("c", pytest.approx(0.3), '{"n": 2}'),
        ("a", pytest.approx(0.1), '{"n": 0}'),
    ]


def test_top_k_above_the_number_of_items_returns_all_of_them(index):
    (hits,) = index.search(np.ones((1, 4), np.float32), 1000)
    assert sorted(hit.id for hit in hits) == ["a", "b/ñ", "c", "d"]


def test_queries_that_cannot_be_answered_are_refused_alone(index):
    """For a query that is not finite FAISS returns -1, which Python would take as the last row."""
    valid, nan, short = (np.eye(4, dtype=np.float32)[0], np.full(4, np.nan, np.float32), AXIS_3)
    hits, not_finite, too_short = index.answer([Query(v, 1) for v in (valid, nan, short)])
    assert [hit.id for hit in hits] == ["a"]
    assert "not finite" in str(not_finite)
    assert "3 dimensions, the index 4" in str(too_short)


def test_empty_index_returns_no_hits(tmp_path):
    write(tmp_path / "index", np.empty((0, 4), np.float32), [])
    with LiveIndex.open(tmp_path / "index") as empty:
        assert empty.search(np.ones((2, 4), np.float32), 5) == [[], []]


def test_exact_search_equals_numpy(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = rng.normal(size=(40, 64)).astype(np.float32)
    write(tmp_path / "index", vectors, [str(n) for n in range(500)])
    expected = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    with LiveIndex.open(tmp_path / "index") as index:
        nearest = [[int(hit.id) for hit in hits] for hits in index.search(queries, 10)]
    np.testing.assert_array_equal(nearest, expected)


def test_new_index_replaces_the_old_one_completely(tmp_path):
    write(tmp_path / "index", ids=["w", "x", "y", "z"])
    write(tmp_path / "index")
    with LiveIndex.open(tmp_path / "index") as index:
        manifest = index.manifest
        assert {hit.id for hit in index.search(np.ones((1, 4), np.float32), 9)[0]} == set(IDS)
    assert (manifest["profile_hash"], manifest["count"], manifest["delta"]) == (PROFILE.hash, 4, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["index"], "nothing else is left"


def test_index_with_items_is_replaced_only_if_the_caller_says_so(tmp_path):
    folder = tmp_path / "index"
    write(folder)
    with Store.open(folder) as store:
        store.write([Upsert("live", np.eye(4, dtype=np.float32)[0])])
        with pytest.raises(InvalidInputError, match=r"an index of 5 items, .* number 5\. .*sync"):
            write(folder, ids=["w", "x", "y", "z"], existing="refuse")
        assert not store.is_replaced
        assert [path.name for path in tmp_path.iterdir()] == ["index"]
        write(folder, ids=["w", "x", "y", "z"], existing="keep")
        assert store.is_replaced
        store.write([Upsert("later", np.eye(4, dtype=np.float32)[1])])  # before it looks
    assert ids_in(folder) == {"w", "x", "y", "z"}
    assert ids_in(tmp_path / "index.old") == {*IDS, "live", "later"}
    with Store.open(folder) as store:
        store.write([Upsert("live 2", np.eye(4, dtype=np.float32)[0])])
    write(folder, existing="keep")
    assert ids_in(tmp_path / "index.old") == {"w", "x", "y", "z", "live 2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "index.old"]


def test_index_without_items_is_replaced(tmp_path):
    folder = tmp_path / "index"
    ensure_index(folder, PROFILE)
    write(folder, existing="refuse")
    assert ids_in(folder) == set(IDS)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_damaged_index_and_the_folder_of_somebody_else_are_not_replaced(tmp_path):
    folder = tmp_path / "index"
    write(folder)
    (tmp_path / "index.old").mkdir()
    (tmp_path / "index.old" / "mine.txt").touch()
    with pytest.raises(InvalidInputError, match=r"index\.old' contains something other than an"):
        write(folder, existing="keep")
    (folder / "store.sqlite").write_bytes(b"damaged")
    with pytest.raises(InvalidInputError, match="an index that cannot be read"):
        write(folder, existing="refuse")
    assert (folder / "store.sqlite").read_bytes() == b"damaged"


def test_items_that_come_while_an_index_is_built_are_not_lost(tmp_path, monkeypatch):
    folder = tmp_path / "index"

    def compact_slowly(staging, threads):
        ensure_index(folder, replace(PROFILE, dimension=4))
        with Store.open(folder) as store:
            store.write([Upsert("live", np.eye(4, dtype=np.float32)[0])])
        return compact(staging, threads=threads)

    monkeypatch.setattr("lensemble.index.maintenance.create.compact", compact_slowly)
    with pytest.raises(InvalidInputError, match="an index of 1 items"):
        write(folder, existing="refuse")
    assert ids_in(folder) == {"live"}


def test_index_of_the_first_format_is_refused_but_may_be_replaced(tmp_path):
    for name in ("manifest.json", "index.faiss", "items.jsonl"):
        (tmp_path / "index").mkdir(exist_ok=True)
        (tmp_path / "index" / name).write_text("{}")
    with pytest.raises(InvalidInputError, match="build one with"):
        LiveIndex.open(tmp_path / "index")
    with pytest.raises(InvalidInputError, match="is an index of the first format"):
        write(tmp_path / "index", existing="refuse")
    write(tmp_path / "index")
    with LiveIndex.open(tmp_path / "index") as index:
        assert len(index) == 4


def test_missing_index_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"not an index; build one with `lensemble index"):
        LiveIndex.open(tmp_path)


def test_index_in_a_read_only_folder_can_be_searched(tmp_path, monkeypatch):
    write(tmp_path / "index")
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = sorted(path.name for path in (tmp_path / "index").iterdir())
    with LiveIndex.open(tmp_path / "index") as index:
        assert len(index.search(np.ones((1, 4), np.float32), 9)[0]) == 4
        assert sorted(path.name for path in (tmp_path / "index").iterdir()) == before


def test_folder_with_other_files_is_not_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(InvalidInputError, match="contains something other"):
        write(tmp_path)
    assert (tmp_path / "precious.txt").exists()
    write(tmp_path / "index")
    (tmp_path / "index" / "notes.txt").write_text("x")
    with pytest.raises(InvalidInputError, match="contains something other"):
        write(tmp_path / "index")
    with pytest.raises(InvalidInputError, match="is not a folder"):
        write(tmp_path / "precious.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "precious.txt"]


def test_index_behind_a_symbolic_link_or_a_relative_path_is_replaced(tmp_path, monkeypatch):
    write(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link")
    monkeypatch.chdir(tmp_path / "real")
    write(Path())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    with LiveIndex.open(tmp_path / "link") as index:
        assert len(index.search(np.ones((1, 4), np.float32), 9)[0]) == 4


@pytest.mark.parametrize("id_", ["", "caf\udce9.jpg", "x" * 513])
def test_invalid_id_is_refused_and_leaves_no_files(tmp_path, id_):
    with pytest.raises(InvalidInputError, match="id: "):
        write(tmp_path / "index", np.eye(1, dtype=np.float32), [id_])
    assert list(tmp_path.iterdir()) == []


def test_duplicate_id_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="id 'x' occurs twice"):
        write(tmp_path / "index", np.eye(3, dtype=np.float32), ["x", "y", "x"])


def test_error_about_another_profile_names_both_profiles(index):
    manifest = index.manifest
    check_profile(manifest["profile_name"], manifest["profile_hash"], PROFILE.hash)
    other = replace(PROFILE, name="qwen3-vl-mean", pooling="mean")
    with pytest.raises(InvalidInputError) as caught:
        check_profile(manifest["profile_name"], manifest["profile_hash"], other.hash)
    assert PROFILE.hash in str(caught.value)
    assert other.hash in str(caught.value)


@pytest.mark.parametrize("query", [[1.0] * 3, [1.0] * 5, [np.nan] * 4, [np.inf, 0, 0, 0]])
def test_query_of_another_length_or_with_infinite_values_is_refused(query):
    with pytest.raises(InvalidInputError, match="embedding"):
        check_vector(4, np.array(query, np.float32))
