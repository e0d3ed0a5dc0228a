import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensemble.index import check_profile, check_query
from lensemble.index.exact import ExactIndex
from lensemble.profile import Profile
from lensemble_client import InvalidInputError


@pytest.fixture(scope="module")
def profile(checkpoint):
    return Profile.load(checkpoint)


@pytest.fixture
def index(profile):
    vectors = np.eye(4, dtype=np.float32)
    return ExactIndex(vectors, ["a", "b/ñ", "c", "d"], [f'{{"n": {n}}}' for n in range(4)], profile)


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


def test_fillings_of_faiss_are_never_shown(index):
    """For a query that is not finite FAISS gives -1, which as a row would be the last item."""
    assert index.search(np.full((1, 4), np.nan, np.float32), 3) == [[]]


def test_empty_index_finds_nothing(profile):
    empty = ExactIndex(np.empty((0, 4), np.float32), [], [], profile)
    assert empty.search(np.ones((2, 4), np.float32), 5) == [[], []]


def test_exact_against_numpy(profile):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 64)).astype(np.float32)
    queries = rng.normal(size=(40, 64)).astype(np.float32)
    index = ExactIndex(vectors, [str(n) for n in range(500)], ["{}"] * 500, profile)
    expected = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    found = [[int(match.id) for match in matches] for matches in index.search(queries, 10)]
    np.testing.assert_array_equal(found, expected)


def test_index_comes_back_from_its_folder(index, tmp_path, profile):
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")  # replaces the first
    loaded = ExactIndex.load(tmp_path / "index")
    query = np.array([[0.1, 0.9, 0.3, 0.0]], np.float32)
    assert loaded.search(query, 4) == index.search(query, 4)
    assert loaded.manifest == index.manifest
    assert loaded.manifest["profile_hash"] == profile.hash
    assert [path.name for path in tmp_path.iterdir()] == ["index"], "nothing else is left"


@pytest.mark.parametrize("name", ["index.faiss", "items.jsonl"])
def test_flipped_bit_is_found(index, tmp_path, name):
    index.save(tmp_path / "index")
    path = tmp_path / "index" / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="a checksum is wrong"):
        ExactIndex.load(tmp_path / "index")


def test_missing_parts_are_named(index, tmp_path):
    with pytest.raises(InvalidInputError, match="not an index"):
        ExactIndex.load(tmp_path)
    index.save(tmp_path / "index")
    (tmp_path / "index" / "items.jsonl").unlink()
    with pytest.raises(InvalidInputError, match=r"items.jsonl is missing"):
        ExactIndex.load(tmp_path / "index")


def test_manifest_of_another_kind_is_refused(index, tmp_path):
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "graph"}))
    with pytest.raises(InvalidInputError, match="kind 'graph'"):
        ExactIndex.load(tmp_path / "index")


def test_folder_with_something_else_is_not_overwritten(index, tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(InvalidInputError, match="holds something else"):
        index.save(tmp_path)
    assert (tmp_path / "precious.txt").exists()


def test_folder_with_somebody_elses_manifest_is_not_overwritten(index, tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "my web app"}')
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(InvalidInputError, match="holds something else"):
        index.save(tmp_path)
    index.save(tmp_path / "index")
    (tmp_path / "index" / "notes.txt").write_text("x")
    with pytest.raises(InvalidInputError, match="holds something else"):
        index.save(tmp_path / "index")
    with pytest.raises(InvalidInputError, match="is not a folder"):
        index.save(tmp_path / "thesis.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "index",
        "manifest.json",
        "thesis.txt",
    ]


def test_index_behind_a_link_or_a_dot_is_replaced(index, tmp_path, monkeypatch):
    index.save(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    index.save(tmp_path / "link")
    monkeypatch.chdir(tmp_path / "real")
    index.save(Path())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    assert len(ExactIndex.load(tmp_path / "link").search(np.ones((1, 4), np.float32), 9)[0]) == 4


@pytest.mark.parametrize("id_", ["", "caf\udce9.jpg", "x" * 513])
def test_id_that_cannot_be_sent_is_refused(profile, id_):
    with pytest.raises(InvalidInputError, match="id: "):
        ExactIndex(np.eye(1, dtype=np.float32), [id_], ["{}"], profile)


def test_id_that_stands_twice_is_named(profile):
    with pytest.raises(InvalidInputError, match="id 'x' stands twice"):
        ExactIndex(np.eye(3, dtype=np.float32), ["x", "y", "x"], ["{}"] * 3, profile)


def test_index_of_another_profile_is_refused_with_both_named(index, profile):
    check_profile(index.manifest, profile)
    other = replace(profile, name="qwen3-vl-mean", pooling="mean")
    with pytest.raises(InvalidInputError) as caught:
        check_profile(index.manifest, other)
    assert profile.hash in str(caught.value)
    assert other.hash in str(caught.value)


@pytest.mark.parametrize("query", [[1.0] * 3, [1.0] * 5, [np.nan] * 4, [np.inf, 0, 0, 0]])
def test_query_that_cannot_be_answered_is_refused(query):
    with pytest.raises(InvalidInputError, match="embedding"):
        check_query(4, np.array(query, np.float32))
