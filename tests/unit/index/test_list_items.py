"""Items of a store: listed in pages, counted, and their documents changed alone."""

import json

import numpy as np
import pytest

from lensemble.index.search.live_index import LiveIndex
from lensemble.index.storage import list_items
from lensemble.index.storage.changes import Delete, DocumentChange, Upsert
from lensemble.index.storage.filter import Filter
from lensemble.index.storage.store import Store
from lensemble.profile import RemoteProfile
from lensemble_contract.documents import CONTENT_DIGEST, merge_patch
from lensemble_contract.errors import StorageError

D = 8
ALL = Filter.parse("{}")
# Among them ids whose order differs between UTF-8 and UTF-16.
IDS = ["b", "a", "é", "a/1", "\U0001f697", "\uffee", "A"]


def unit(n):
    return np.eye(D, dtype=np.float32)[n % D]


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path, RemoteProfile("sha256:a"), D) as store:
        store.write([Upsert(id_, unit(n), f'{{"n": {n}}}', f"d{n}") for n, id_ in enumerate(IDS)])
        yield store


def pages(store, limit, filter_=ALL):
    after, found = "", []
    while after is not None:
        page = store.list_items(after, limit, filter_)
        found.append([item.id for item in page.items])
        after = page.next
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_have_every_item_once_in_the_order_of_utf_8(store, limit):
    found = pages(store, limit)
    assert [id_ for page in found for id_ in page] == sorted(IDS, key=str.encode)
    assert all(len(page) == limit for page in found[:-1])
    assert found[-1], "the last page is not empty"


def test_a_page_has_ids_documents_sequence_numbers_and_digests(store):
    store.write([Upsert('q"', unit(0), '{"ñ": [1, null]}'), Delete("b")])
    first = json.loads(store.list_items("q", 1, ALL).to_json())
    assert (first["items"][0]["id"], first["next"]) == ('q"', 'q"')
    everything = json.loads(store.list_items("", 9, ALL).to_json())
    assert everything["next"] is None
    by_id = {item["id"]: item for item in everything["items"]}
    assert by_id['q"'] == {
        "id": 'q"',
        "sequence": 8,
        "digest": "",
        "document": {"ñ": [1, None]},
    }
    assert by_id["é"] == {"id": "é", "sequence": 3, "digest": "d2", "document": {"n": 2}}
    assert "b" not in by_id


def test_a_filter_is_applied_and_a_page_looks_at_few_items(store, monkeypatch):
    even = Filter.parse('{"n": {"$in": [0, 2, 4, 6]}}')
    expected = sorted((IDS[n] for n in (0, 2, 4, 6)), key=str.encode)
    assert [id_ for page in pages(store, 2, even) for id_ in page] == expected
    monkeypatch.setattr(list_items, "_MAX_SCANNED", 2)
    found = pages(store, 9, even)
    assert [id_ for page in found for id_ in page] == expected
    assert len(found) == 4
    monkeypatch.setattr(list_items, "_MAX_SCANNED", 1)
    assert [] in pages(store, 9, even), "a page may be empty although more items follow"
    assert store.count_items(even) == 4
    assert store.count_items(ALL) == 7
    assert store.count_items(Filter.parse('{"m": {"$ne": 1}}')) == 7


def test_a_page_ends_after_a_number_of_characters(store, monkeypatch):
    monkeypatch.setattr(list_items, "_MAX_CHARACTERS", 10)
    assert [len(page) for page in pages(store, 9)] == [2, 2, 2, 1]


def test_listing_goes_on_while_others_write(store, tmp_path):
    first = store.list_items("", 3, ALL)
    with Store.open(tmp_path) as other:
        other.write([Delete("A"), Upsert("b", unit(1), '{"new": 1}'), Upsert("0", unit(1))])
    rest = store.list_items(first.next, 9, ALL)
    ids = [item.id for item in (*first.items, *rest.items)]
    assert ids == sorted(IDS, key=str.encode)
    assert {item.id: item.document for item in rest.items}["b"] == '{"new": 1}'


def test_damaged_item_is_named(store):
    store._connection.execute("UPDATE items SET document = '{\"n\": 9}' WHERE id = 'b'")
    with pytest.raises(StorageError, match="row 1 is damaged"):
        store.list_items("", 9, ALL)
    changes = [DocumentChange("b", '{"x": 1}', merge=True), DocumentChange("a", "{}", merge=False)]
    damaged, changed = store.write(changes)
    assert isinstance(damaged, StorageError)
    assert changed == 8


def test_document_is_changed_and_the_vector_kept(store, tmp_path):
    with LiveIndex.open(tmp_path) as index:
        (before,) = index.search(unit(0)[None], 1)
        results = store.write(
            [
                DocumentChange("b", '{"sold": true, "n": null, "deep": {"x": 1}}', merge=True),
                DocumentChange("gone", '{"sold": true}', merge=True),
                DocumentChange("a", '{"only": "this"}', merge=False),
                DocumentChange("é", '{"n": 2}', merge=True),
                DocumentChange("A", "[]", merge=True),
                DocumentChange("A", json.dumps({"x": "y" * 65_530}), merge=True),
            ]
        )
        assert results[:4] == [8, 0, 9, 3], "an item that stays the same is not written"
        assert [error.field for error in results[4:]] == ["document", "document"]
        (after,) = index.search(unit(0)[None], 1)
    assert (after[0].id, after[0].score) == (before[0].id, before[0].score)
    assert after[0].document == '{"sold": true, "deep": {"x": 1}}'
    changed, replaced, same = store.get(["b", "a", "é"])
    np.testing.assert_array_equal(changed.vector, unit(0))
    assert replaced.document == '{"only": "this"}'
    assert (changed.digest, replaced.digest, same.digest) == ("", "", "d2")


def test_a_digest_of_the_content_alone_is_kept(store):
    digest = f"{CONTENT_DIGEST}x"
    store.write([Upsert("a", unit(1), "{}", digest)])
    store.write([DocumentChange("a", '{"n": 1}', merge=True)])
    (item,) = store.get(["a"])
    assert (item.digest, item.document) == (digest, '{"n": 1}')
    store.write([DocumentChange("a", '{"n": 1}', merge=False, digest="y")])
    (item,) = store.get(["a"])
    assert (item.digest, item.document) == ("y", '{"n": 1}')


# The examples in appendix A of RFC 7396.
@pytest.mark.parametrize(
    ("document", "patch", "merged"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_is_that_of_the_rfc(document, patch, merged):
    before = json.dumps([document, patch])
    assert merge_patch(document, patch) == merged
    assert json.dumps([document, patch]) == before
