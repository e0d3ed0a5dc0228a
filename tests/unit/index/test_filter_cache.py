"""The filter cache: up to date after every write, and limited in size."""

import json

import numpy as np
import pytest

from lensemble.index.search import filter_cache
from lensemble.index.search.filter_cache import FilterCache
from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_contract.errors import InvalidInputError
from tests.paths import CHECKPOINT

PROFILE = Profile.load(CHECKPOINT)
AXIS = np.eye(4, dtype=np.float32)[0]


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "index", PROFILE, 4) as created:
        yield created


def write(store, *numbers):
    return store.write([Upsert(str(n), AXIS, json.dumps({"n": n})) for n in numbers])[-1]


def equals(n):
    return json.dumps({"n": n})


def test_only_rows_written_since_the_last_use_are_checked(store, monkeypatch):
    cache = FilterCache(store)
    condition = '{"n": {"$gte": 2}}'
    first = write(store, 1, 2, 3)
    assert cache.cached(condition, first) is None
    assert cache.update(condition, first).rows.tolist() == [2, 3]
    assert cache.cached(condition, first).rows.tolist() == [2, 3]
    store.write([Delete("3")])
    last = write(store, 0, 4)
    assert cache.cached(condition, last) is None
    checked_after = []
    rows_matching = store.rows_matching
    monkeypatch.setattr(
        store,
        "rows_matching",
        lambda parsed, sequence: checked_after.append(sequence) or rows_matching(parsed, sequence),
    )
    matching = cache.update(condition, last)
    assert checked_after == [first]
    assert matching.rows.tolist() == [2, 3, 5], (
        "row 3 was removed, but stays until the searcher skips it"
    )
    assert matching.row_mask(np.array([1, 2, 5, 9])).tolist() == [False, True, True, False]


def test_text_that_is_not_a_filter_is_refused(store):
    with pytest.raises(InvalidInputError, match="is not JSON"):
        FilterCache(store).update("{", write(store, 1))


def test_least_recently_used_filters_are_forgotten(store):
    cache = FilterCache(store)
    sequence = write(store, 1)
    for n in range(filter_cache.MAX_FILTERS):
        cache.update(equals(n), sequence)
    assert cache.cached(equals(0), sequence) is not None  # now the most recently used one
    cache.update(equals(1000), sequence)
    assert cache.cached(equals(1), sequence) is None
    assert cache.cached(equals(0), sequence) is not None
    assert cache.cached(equals(1000), sequence) is not None


def test_number_of_cached_rows_is_limited(store, monkeypatch):
    monkeypatch.setattr(filter_cache, "MAX_ROWS", 100)
    cache = FilterCache(store)
    sequence = write(store, *range(120))
    cache.update('{"n": {"$lt": 60}}', sequence)
    cache.update('{"n": {"$lt": 50}}', sequence)
    assert cache.cached('{"n": {"$lt": 60}}', sequence) is None
    assert cache.cached('{"n": {"$lt": 50}}', sequence) is not None
    assert len(cache.update("{}", sequence).rows) == 120, "more than the limit, so it is alone"
    assert cache.cached("{}", sequence) is not None
    assert cache.cached('{"n": {"$lt": 50}}', sequence) is None
