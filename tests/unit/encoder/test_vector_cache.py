"""Equal items are encoded once; a fake encoder counts what reaches it."""

import numpy as np
import pytest

from lensemble.encoder.vector_cache import Repeats, content, keys_of
from lensemble.preprocess.features import Features
from lensemble_client import InternalError

ENTRY = 8 * 4 + 256
"""Bytes that a remembered vector of the fake encoder takes."""


class FakeEncoder:
    """An item's vector is its first id eight times; an id of 13 fails."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.deadlines: list[int] = []

    def __call__(self, items, deadlines):
        self.deadlines += deadlines
        self.seen += [int(item.input_ids[0]) for item in items]
        return [
            InternalError("unlucky")
            if item.input_ids[0] == 13
            else np.full(8, item.input_ids[0], np.float32)
            for item in items
        ]


def text(id_: int, tokens: int = 1) -> Features:
    return Features(
        np.full(tokens, id_, np.int32), np.empty((0, 768), np.uint8), np.empty((0, 3), np.int32)
    )


def picture(id_: int = 1, *, height: int = 8, width: int = 8, changed: int | None = None):
    patches = np.zeros((height * width, 768), np.uint8)
    if changed is not None:
        patches[changed, 5] = 1
    return Features(np.array([id_], np.int32), patches, np.array([[1, height, width]], np.int32))


def first(results) -> list[float]:
    return [float(vector[0]) for vector in results]


@pytest.mark.parametrize("capacity", [0, 10_000])
def test_equal_items_of_a_batch_are_encoded_once_and_all_keep_their_places(capacity):
    encode = FakeEncoder()
    repeats = Repeats(encode, capacity)
    assert first(repeats([text(3), text(5), text(3), picture(7), text(5), picture(7)])) == [
        3, 5, 3, 7, 5, 7,
    ]  # fmt: skip
    assert encode.seen == [3, 5, 7]
    counts = repeats.counts
    assert (counts.encoded, counts.repeated, counts.cached) == (3, 3, 0)


def test_equal_items_are_computed_until_the_last_of_them_is_late():
    encode = FakeEncoder()
    items = [text(1), text(2), text(1), text(3), text(3), text(3)]
    Repeats(encode)(items, [70, 50, 90, 20, 0, 30])
    assert encode.seen == [1, 2, 3]
    assert encode.deadlines == [90, 50, 0]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (text(3), text(4)),
        (text(3), text(3, tokens=2)),
        (picture(), picture(2)),
        (picture(), picture(changed=0)),
        # 3 is not among the sampled rows of 64: only the whole content tells these two apart.
        (picture(), picture(changed=3)),
        (picture(height=4, width=16), picture(height=16, width=4)),
    ],
)
def test_what_differs_in_anything_is_not_equal(one, other, exact):
    keys = keys_of([one, other, one], exact=exact)
    assert keys[0] == keys[2] != keys[1]


def test_content_is_that_of_an_array_that_lies_otherwise_in_memory():
    item = picture(changed=3)
    spread = Features(
        item.input_ids, np.asfortranarray(item.patches), np.asfortranarray(item.image_grid_thw)
    )
    assert content(spread) == content(item)


def test_remembered_items_are_not_encoded_again():
    encode = FakeEncoder()
    repeats = Repeats(encode, 10_000)
    repeats([text(3), text(4)])
    assert first(repeats([text(4), text(5), text(3), text(5)])) == [4, 5, 3, 5]
    assert encode.seen == [3, 4, 5]
    counts = repeats.counts
    assert (counts.encoded, counts.repeated, counts.cached) == (3, 1, 2)


def test_without_a_cache_nothing_is_remembered():
    encode = FakeEncoder()
    repeats = Repeats(encode)
    repeats([text(3)])
    repeats([text(3)])
    assert encode.seen == [3, 3]


def test_least_recently_used_goes_first():
    encode = FakeEncoder()
    repeats = Repeats(encode, 2 * ENTRY)
    repeats([text(1)])
    repeats([text(2)])
    repeats([text(1)])  # used again
    repeats([text(3)])  # 2 has to go
    encode.seen.clear()
    repeats([text(1), text(3)])
    assert encode.seen == []
    repeats([text(2)])
    assert encode.seen == [2]
    assert repeats._used == 2 * ENTRY


def test_vector_larger_than_the_cache_is_served_and_not_kept():
    encode = FakeEncoder()
    repeats = Repeats(encode, ENTRY - 1)
    assert first(repeats([text(1)])) == first(repeats([text(1)])) == [1]
    assert encode.seen == [1, 1]
    assert repeats._used == 0


def test_errors_are_not_remembered_and_harm_no_other():
    encode = FakeEncoder()
    repeats = Repeats(encode, 10_000)
    for _ in range(2):
        bad, good, again = repeats([text(13), text(2), text(13)])
        assert isinstance(bad, InternalError) and isinstance(again, InternalError)
        assert good[0] == 2
    assert encode.seen == [13, 2, 13]


def test_what_a_caller_does_to_a_vector_does_not_reach_the_cache():
    repeats = Repeats(FakeEncoder(), 10_000)
    (vector,) = repeats([text(2)])
    vector[:] = 9
    (remembered,) = repeats([text(2)])
    assert remembered[0] == 2
    with pytest.raises(ValueError, match="read-only"):
        remembered[:] = 9
