"""The rule for documents: what is refused, by which words, and that nothing accepted is changed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensemble_contract.documents import (
    MAX_DOCUMENT_BYTES,
    document_text,
    normalized_document,
    parse_document,
)
from lensemble_contract.errors import InvalidInputError

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS, parts, max_size=3),
    max_leaves=10,
)
DOCUMENTS = st.dictionaries(TEXTS, VALUES, max_size=4)


def nested(levels):
    """A document of that many objects and lists."""
    value = 1
    for _ in range(levels - 1):
        value = [value]
    return {"a": value}


def of_size(size):
    """A document that is that many bytes as compact JSON, and more with spaces."""
    document = {"numbers": [1, 2, 3], "text": ""}
    rest = size - len(json.dumps(document, separators=(",", ":")))
    return {**document, "text": "é" * (rest // 2) + "x" * (rest % 2)}


@given(DOCUMENTS)
def test_documents_come_back_unchanged_from_every_form_of_their_text(document):
    text = document_text(document)
    for written in (text, json.dumps(document), json.dumps(document, indent=1).encode()):
        assert normalized_document(written) == text
        assert exactly(parse_document(written)) == exactly(document)
    assert exactly(json.loads(text)) == exactly(document)


def exactly(value):
    """A value in which 1, 1.0 and true differ, and so do 0.0 and -0.0."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("size", [MAX_DOCUMENT_BYTES - 1, MAX_DOCUMENT_BYTES])
def test_size_is_that_of_compact_json(size):
    document = of_size(size)
    compact = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    assert len(compact.encode()) == size
    for written in (compact, json.dumps(document), json.dumps(document, indent=2)):
        assert parse_document(written) == document
    with pytest.raises(InvalidInputError, match=r"65537 bytes as compact JSON; expected at most"):
        document_text(of_size(MAX_DOCUMENT_BYTES + 1))


@pytest.mark.parametrize("levels", [1, 2, 50])
def test_documents_may_be_nested_fifty_levels_deep(levels):
    assert parse_document(json.dumps(nested(levels))) == nested(levels)


@pytest.mark.parametrize("integer", [2**53 + 1, 2**63 - 1, -(2**63)])
def test_integers_of_64_bits_are_kept(integer):
    assert parse_document(f'{{"n": {integer}}}') == {"n": integer}


REFUSED = [
    (nested(51), r"the value at 'a\[0\].* is nested more than 50 levels deep"),
    (nested(253), "nested more than 50 levels deep"),
    ({"a": [{"b": 2**63}]}, r"the value at 'a\[0\]\.b' is a whole number of more than 64 bits"),
    ({"n": -(2**63) - 1}, "the value at 'n' is a whole number of more than 64 bits"),
    ({"n": 10**400}, "a whole number of more than 64 bits"),
    ({"tenant": "acme\0x"}, r"the value at 'tenant' is a text with U\+0000"),
    ({"a\0b": 1}, r"the value at 'a\\x00b' is a text with U\+0000"),
    ({"t": "\ud800"}, "the value at 't' is a text with an unpaired surrogate"),
    ({"\ud800": 1}, "a text with an unpaired surrogate"),
    ({"n": float("nan")}, "(nan, which JSON does not have; send null|NaN is not a JSON value)"),
    (
        {"n": float("inf")},
        "(inf, which JSON does not have; send null|Infinity is not a JSON value)",
    ),
]


@pytest.mark.parametrize(("document", "message"), REFUSED)
def test_document_is_refused_alike_as_an_object_and_as_text(document, message):
    for check in (document_text, lambda value: parse_document(json.dumps(value))):
        with pytest.raises(InvalidInputError, match=message) as caught:
            check(document)
        assert caught.value.field == "document"
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({1: "x"}, "the value at '1' is under a name that is not a text"),
        ({"a": {1, 2}}, "the value at 'a' is of type set, which JSON does not have"),
        ({"a": b"x"}, "the value at 'a' is of type bytes, which JSON does not have"),
        ([1], r"\[1\]; expected a JSON object"),
        ("x", "'x'; expected a JSON object"),
    ],
)
def test_python_values_that_json_does_not_have_are_refused(document, message):
    with pytest.raises(InvalidInputError, match=message):
        document_text(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 50 levels deep"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested more than 50 levels deep"),
        ('{"n": 1e999}', "inf, which JSON does not have"),
        ('{"n": ' + "9" * 5000 + "}", "is not JSON: .*4300 digits"),
        (b'{"a": "\xff"}', "not valid UTF-8 at byte 7"),
        (" " * 600_000, "JSON text of 600000 bytes; expected at most 524288"),
        ("{", "'{' is not JSON"),
        ("5", "5; expected a JSON object"),
    ],
)
def test_text_that_is_no_document_is_refused(text, message):
    with pytest.raises(InvalidInputError, match=message):
        parse_document(text)


def test_tuples_are_lists():
    assert document_text({"a": (1, 2)}) == '{"a": [1, 2]}'
