import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensemble.index import Query, check_profile, check_query
from lensemble.index.maintenance.create import write_index
from lensemble.index.search.live_index import LiveIndex
from lensemble.profile import Profile
from lensemble_client import InvalidInputError


@pytest.fixture(scope="module")
def profile(checkpoint):
    return Profile.load(checkpoint)


AXIS_3 = np.eye(3, dtype=np.float32)[0]
IDS = ["a", "b/ñ", "c", "d"]


def write(folder, profile, vectors=None, ids=IDS):
    vectors = np.eye(4, dtype=np.float32) if vectors is None else vectors
    write_index(folder, profile, vectors, ids, [f'{{"n": {n}}}' for n in range(len(ids))])


@pytest.fixture
def index(tmp_path, profile):
    write(tmp_path / "made", profile)
    with LiveIndex.open(tmp_path / "made") as opened:
        yield opened


def test_nearest_come_first_with_the_callers_ids(index):
    query = np.array([[0.1, 0.9, 0.3, 0.0]], np.float32)
    (matches,) = index.search(query, 3)
    assert [(m.id, m.score, m.document) for m in matches] == [
        ("b/ñ", pytest.approx(0.9), '{"n": 1}'),
        ("c", pytest.approx(0.3), '{"n": 2}'),
        ("a", pytest.approx(0.1), '{"n": 0}'),
    ]


def test_more_than_there_are_gives_all_and_no_filling(index):
    (matches,) = index.search(np.ones((1, 4), np.float32), 1000)
    assert sorted(match.id for match in matches) == ["a", "b/ñ", "c", "d"]


def test_queries_that_cannot_be_answered_are_refused_alone(index):
    """For a query that is not finite FAISS gives -1, which as a row would be the last item."""
    sound, nan, short = (np.eye(4, dtype=np.float32)[0], np.full(4, np.nan, np.float32), AXIS_3)
    found, not_finite, too_short = index.answer([Query(v, 1) for v in (sound, nan, short)])
    assert [match.id for match in found] == ["a"]
    assert "not finite" in str(not_finite)
    assert "3 dimensions, the index 4" in str(too_short)


def test_empty_index_finds_nothing(profile, tmp_path):
    write(tmp_path / "index", profile, np.empty((0, 4), np.float32), [])
    with LiveIndex.open(tmp_path / "index") as empty:
        assert empty.search(np.ones((2, 4), np.float32), 5) == [[], []]


def test_exact_against_numpy(profile, tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = rng.normal(size=(40, 64)).astype(np.float32)
    write(tmp_path / "index", profile, vectors, [str(n) for n in range(500)])
    expected = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    with LiveIndex.open(tmp_path / "index") as index:
        found = [[int(match.id) for match in matches] for matches in index.search(queries, 10)]
    np.testing.assert_array_equal(found, expected)


def test_index_is_written_whole_and_replaces_the_one_before(tmp_path, profile):
    write(tmp_path / "index", profile, ids=["w", "x", "y", "z"])
    write(tmp_path / "index", profile)
    with LiveIndex.open(tmp_path / "index") as index:
        manifest = index.manifest
        assert {m.id for m in index.search(np.ones((1, 4), np.float32), 9)[0]} == set(IDS)
    assert (manifest["profile_hash"], manifest["count"], manifest["delta"]) == (profile.hash, 4, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["index"], "nothing else is left"


def test_index_of_the_first_format_is_named_and_replaced(tmp_path, profile):
    for name in ("manifest.json", "index.faiss", "items.jsonl"):
        (tmp_path / "index").mkdir(exist_ok=True)
        (tmp_path / "index" / name).write_text("{}")
    with pytest.raises(InvalidInputError, match="build one with"):
        LiveIndex.open(tmp_path / "index")
    write(tmp_path / "index", profile)
    with LiveIndex.open(tmp_path / "index") as index:
        assert len(index) == 4


def test_missing_index_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match=r"not an index; build one with `lensemble index"):
        LiveIndex.open(tmp_path)


def test_index_in_a_folder_that_cannot_be_written_is_read(profile, tmp_path, monkeypatch):
    write(tmp_path / "index", profile)
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = sorted(path.name for path in (tmp_path / "index").iterdir())
    with LiveIndex.open(tmp_path / "index") as index:
        assert len(index.search(np.ones((1, 4), np.float32), 9)[0]) == 4
        assert sorted(path.name for path in (tmp_path / "index").iterdir()) == before


def test_folder_with_something_else_is_not_overwritten(profile, tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(InvalidInputError, match="holds something else"):
        write(tmp_path, profile)
    assert (tmp_path / "precious.txt").exists()
    write(tmp_path / "index", profile)
    (tmp_path / "index" / "notes.txt").write_text("x")
    with pytest.raises(InvalidInputError, match="holds something else"):
        write(tmp_path / "index", profile)
    with pytest.raises(InvalidInputError, match="is not a folder"):
        write(tmp_path / "precious.txt", profile)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "precious.txt"]


def test_index_behind_a_link_or_a_dot_is_replaced(profile, tmp_path, monkeypatch):
    write(tmp_path / "real", profile)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", profile)
    monkeypatch.chdir(tmp_path / "real")
    write(Path(), profile)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    with LiveIndex.open(tmp_path / "link") as index:
        assert len(index.search(np.ones((1, 4), np.float32), 9)[0]) == 4


@pytest.mark.parametrize("id_", ["", "caf\udce9.jpg", "x" * 513])
def test_id_that_cannot_be_sent_is_refused_and_nothing_is_left(profile, tmp_path, id_):
    with pytest.raises(InvalidInputError, match="id: "):
        write(tmp_path / "index", profile, np.eye(1, dtype=np.float32), [id_])
    assert list(tmp_path.iterdir()) == []


def test_id_that_stands_twice_is_named(profile, tmp_path):
    with pytest.raises(InvalidInputError, match="id 'x' occurs twice"):
        write(tmp_path / "index", profile, np.eye(3, dtype=np.float32), ["x", "y", "x"])


def test_index_of_another_profile_is_refused_with_both_named(index, profile):
    made = index.manifest
    check_profile(made["profile_name"], made["profile_hash"], profile.hash)
    other = replace(profile, name="qwen3-vl-mean", pooling="mean")
    with pytest.raises(InvalidInputError) as caught:
        check_profile(made["profile_name"], made["profile_hash"], other.hash)
    assert profile.hash in str(caught.value)
    assert other.hash in str(caught.value)


@pytest.mark.parametrize("query", [[1.0] * 3, [1.0] * 5, [np.nan] * 4, [np.inf, 0, 0, 0]])
def test_query_that_cannot_be_answered_is_refused(query):
    with pytest.raises(InvalidInputError, match="embedding"):
        check_query(4, np.array(query, np.float32))
