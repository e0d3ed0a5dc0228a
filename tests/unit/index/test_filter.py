"""Filters: their meaning, their errors, and a comparison with the same conditions in Python."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensemble.index.storage.changes import Delete, Upsert
from lensemble.index.storage.filter import Filter
from lensemble.index.storage.store import Store
from lensemble.profile import Profile
from lensemble_contract.errors import InvalidInputError
from tests.paths import CHECKPOINT

PROFILE = Profile.load(CHECKPOINT)
AXIS = np.eye(4, dtype=np.float32)[0]
DOCUMENTS = [
    {},
    {"make": "seat", "year": 2015, "price": 8000.5, "sold": True, "tags": ["red", "old"]},
    {"make": "seat", "year": 2020, "sold": False, "tags": []},
    {"make": "SEAT", "year": "2015", "owner": {"name": "Íñigo", "age": 40}},
    {"make": None, "year": 1, "sold": 1, "tags": "red"},
    {"make": '{"a":1}', "year": 2015.0, "owner": {"name": None}},
    {"make": {"a": 1}, "year": True, "owner": "Íñigo"},
    {"país": "España", "a b": 1, "damage": {"part": {"side": "left"}}, "tags": [1, True, None]},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store.create(tmp_path_factory.mktemp("filter") / "index", PROFILE, 4) as created:
        created.write([Upsert(str(n), AXIS, json.dumps(d)) for n, d in enumerate(DOCUMENTS)])
        yield created


def matching_numbers(store, condition):
    """Positions in `DOCUMENTS` that match."""
    return (store.rows_matching(Filter.parse(json.dumps(condition))) - 1).tolist()


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"make": "seat"}, [1, 2]),
        ({"make": {"$eq": "seat"}, "year": {"$gt": 2015}}, [2]),
        ({"make": {"$ne": "seat"}}, [0, 3, 4, 5, 6, 7]),
        ({"make": None}, [4]),
        ({"make": '{"a":1}'}, [5]),  # not the object with the same text
        ({"year": 2015}, [1, 5]),
        ({"year": {"$in": [2015, "2015", True]}}, [1, 3, 5, 6]),
        ({"year": {"$nin": [2015, "2015", True]}}, [0, 2, 4, 7]),
        ({"year": {"$gte": 1, "$lt": 2020}}, [1, 4, 5]),
        ({"year": {"$gte": "2"}}, [3]),
        ({"sold": True}, [1]),
        ({"sold": 1}, [4]),
        ({"sold": False}, [2]),
        ({"price": {"$lte": 8000.5}}, [1]),
        ({"owner.name": "Íñigo"}, [3]),
        ({"owner.name": {"$exists": True}}, [3]),
        ({"owner.name": {"$exists": False}}, [0, 1, 2, 4, 5, 6, 7]),
        ({"owner.name": None}, [5]),
        ({"damage.part.side": "left"}, [7]),
        ({"tags": {"$contains": "red"}}, [1]),
        ({"tags": {"$contains": 1}}, [7]),
        ({"tags": {"$contains": True}}, [7]),
        ({"tags": {"$contains": None}}, [7]),
        ({"tags": {"$not": {"$contains": "red"}}}, [0, 2, 3, 4, 5, 6, 7]),
        ({"país": "España"}, [7]),
        ({"a b": 1}, [7]),
        ({"$or": [{"make": "SEAT"}, {"sold": False}]}, [2, 3]),
        ({"$and": [{"make": "seat"}, {"sold": True}]}, [1]),
        ({"$not": {"make": "seat", "year": 2015}}, [0, 2, 3, 4, 5, 6, 7]),
        ({"$not": {"$or": [{"make": "seat"}, {"year": 1}]}}, [0, 3, 5, 6, 7]),
        ({"$not": {"$not": {"make": "seat"}}}, [1, 2]),
        ({"$not": {}}, []),
        ({"make": {"$in": ["'); DROP TABLE items; --"]}}, []),
    ],
)
def test_filter_matches_the_expected_documents(store, condition, expected):
    assert matching_numbers(store, condition) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected an object of fields"),
        ("{", "is not JSON"),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('{"$nor": []}', "'.nor'; expected .and, .or, .not or the name of a field"),
        ('{"$or": []}', "expected a list of conditions"),
        ('{"$or": {"a": 1}}', "expected a list of conditions"),
        ('{"a": {}}', "'a' has no condition"),
        ('{"a": {"$near": 1}}', r"'a' has '\$near'; expected one of \$eq"),
        ('{"a": {"b": 1}}', "'a' has 'b'; expected one of"),
        ('{"a": [1]}', "a string, a number, true, false or null"),
        ('{"a": {"$gt": null}}', r"\$gt has null; expected a number or a string"),
        ('{"a": {"$gt": true}}', "expected a number or a string"),
        ('{"a": {"$in": 1}}', "expected a list of 1 to 1000 values"),
        ('{"a": {"$in": []}}', "expected a list of 1 to 1000 values"),
        ('{"a": {"$in": [[1]]}}', "a string, a number, true, false or null"),
        ('{"a": {"$exists": 1}}', "expected true or false"),
        ('{"a": {"$not": 1}}', r"\$not has 1; expected conditions"),
        ('{"a": 9223372036854775808}', "an integer of at most 64 bits"),
        ('{"a": 1e999}', "a finite number"),
        ('{"a": "\\ud800"}', "valid Unicode"),
        ('{"": 1}', "is not a field name"),
        ('{"a..b": 1}', "is not a field name"),
        ('{"a\'b": 1}', "is not a field name"),
        ('{"a\\"b": 1}', "is not a field name"),
        ('{"a[0]": 1}', "is not a field name"),
        ('{"a.$b": 1}', "is not a field name"),
        ('{"a\\u0000": 1}', "is not a field name"),
        ('{"a\\ud800": 1}', "is not a field name"),
        (json.dumps({"a" * 300: 1}), "is not a field name"),
        ('{"$not":' * 40 + '{"a":1}' + "}" * 40, "nested deeper than 16"),
        ('{"a":{"$not":' * 20 + "{}" + "}}" * 20, "'a' has 'a'"),
        (json.dumps({"$or": [{"a": n} for n in range(300)]}), "more than 256 conditions"),
        (json.dumps({"a": {"$in": list(range(1001))}}), "a list of 1 to 1000 values"),
        (" " * 70_000, "at most 65536"),
        ("[" * 60_000, "is not JSON"),
    ],
)
def test_invalid_filter_is_refused(text, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        Filter.parse(text)
    assert caught.value.field == "filter"
    assert len(str(caught.value)) < 500


def test_deep_nesting_is_refused_at_any_depth():
    """Near the limit of recursion, a filter can be read, but not written into the message."""
    for depth in range(16, 1100):
        brackets = "[" * depth + "]" * depth
        for text in (brackets, f'{{"a":{brackets}}}', f'{{"a":{{"$in":[{brackets}]}}}}'):
            with pytest.raises(InvalidInputError):
                Filter.parse(text)


def test_index_on_a_field_is_used_and_does_not_change_results(store):
    conditions = [{"make": "seat"}, {"year": {"$gt": 2015}}, {"owner.name": "Íñigo"}]
    before = [matching_numbers(store, condition) for condition in conditions]
    store.set_fields(["make", "year", "owner.name"])
    assert store.fields == ["make", "owner.name", "year"]
    assert [matching_numbers(store, condition) for condition in conditions] == before
    parsed = Filter.parse(json.dumps(conditions[2]))
    (plan,) = store._connection.execute(
        f"EXPLAIN QUERY PLAN SELECT row FROM items WHERE removed IS NULL AND  {parsed.sql}",
        parsed.parameters,
    ).fetchall()
    assert "USING INDEX field:owner.name" in plan[3]
    store.set_fields(["year"])
    assert store.fields == ["year"]
    with pytest.raises(InvalidInputError, match="is not a field name"):
        store.set_fields(["a'b"])
    store.set_fields([])


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 2.0, "", "a", "1"])
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from("xy"), SCALARS)
FIELDS = st.sampled_from(["a", "ñ", "a.x", "ñ.y"])
ORDERED = st.integers(-3, 3) | st.sampled_from([0.5, 2.0, "", "a", "1"])
LEAVES = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), SCALARS),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, min_size=1, max_size=4)),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED),
    st.tuples(st.just("$exists"), st.booleans()),
)
CONDITIONS = st.recursive(
    st.builds(
        lambda field, leaves: {field: dict(leaves)},
        FIELDS,
        st.lists(LEAVES, min_size=1, max_size=3),
    )
    | st.builds(lambda field, value: {field: value}, FIELDS, SCALARS),
    lambda inner: st.one_of(
        st.builds(lambda condition: {"$not": condition}, inner),
        st.builds(
            lambda name, conditions: {name: conditions},
            st.sampled_from(["$and", "$or"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        st.builds(lambda left, right: {**left, **right}, inner, inner),
    ),
    max_leaves=8,
)
MISSING = object()


def type_name(value):
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__


def is_equal(left, right):
    return type_name(left) == type_name(right) and left == right


def matches_leaf(value, operator, operand):
    """Whether a value matches one condition, written after the table in docs/index.md alone."""
    if operator == "$eq":
        return (
            value is not MISSING and not isinstance(value, list | dict) and is_equal(value, operand)
        )
    if operator == "$in":
        return any(matches_leaf(value, "$eq", element) for element in operand)
    if operator == "$ne":
        return not matches_leaf(value, "$eq", operand)
    if operator == "$nin":
        return not matches_leaf(value, "$in", operand)
    if operator == "$exists":
        return (value is not MISSING and value is not None) == operand
    if operator == "$contains":
        return isinstance(value, list) and any(is_equal(element, operand) for element in value)
    if value is MISSING or type_name(value) != type_name(operand):
        return False
    return {
        "$gt": value > operand, "$gte": value >= operand, "$lt": value < operand,
        "$lte": value <= operand,
    }[operator]  # fmt: skip


def matches_filter(document, condition):
    """Whether a document matches a filter, written after docs/index.md alone."""
    for name, operand in condition.items():
        if name == "$not":
            is_true = not matches_filter(document, operand)
        elif name in ("$and", "$or"):
            combine = all if name == "$and" else any
            is_true = combine(matches_filter(document, part) for part in operand)
        else:
            value = document
            for key in name.split("."):
                value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
            leaves = operand.items() if isinstance(operand, dict) else [("$eq", operand)]
            is_true = all(matches_leaf(value, operator, part) for operator, part in leaves)
        if not is_true:
            return False
    return True


def write_documents(store, documents):
    """Replaces all items of the store.

    Returns:
        Row numbers by position in `documents`, and the sequence number of each.
    """
    ids = [str(number) for number in range(len(documents))]
    old = [item.id for item in store.live_items()]
    store.write([Delete(id_) for id_ in old])
    items = zip(ids, documents, strict=True)
    sequences = store.write([Upsert(id_, AXIS, json.dumps(document)) for id_, document in items])
    live = store.live_rows(ids)
    return [live[id_] for id_ in ids], sequences


@pytest.fixture(scope="module")
def scratch_store(tmp_path_factory):
    """A store for `write_documents`; one for all examples, as creating one takes several syncs."""
    with Store.create(tmp_path_factory.mktemp("scratch") / "index", PROFILE, 4) as created:
        yield created


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(
        st.dictionaries(st.sampled_from("añ"), VALUES, max_size=2), min_size=1, max_size=12
    ),
    conditions=st.lists(CONDITIONS, min_size=1, max_size=6),
)
def test_rows_equal_those_that_python_finds(scratch_store, documents, conditions):
    rows, sequences = write_documents(scratch_store, documents)
    half = len(documents) // 2
    after = sequences[half - 1] if half else 0
    for condition in conditions:
        parsed = Filter.parse(json.dumps(condition))
        matches = [n for n, document in enumerate(documents) if matches_filter(document, condition)]
        expected = [rows[number] for number in matches]
        assert scratch_store.rows_matching(parsed).tolist() == expected
        newer = scratch_store.rows_matching(parsed, after=after).tolist()
        assert newer == [rows[number] for number in matches if number >= half]
