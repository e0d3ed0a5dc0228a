"""Equal items are encoded once; a fake encoder records what reaches it."""

import numpy as np
import pytest

from lensemble.encoder.vector_cache.caching_encoder import (
    CachingEncoder,
    content_keys,
    features_hash,
)
from lensemble.encoder.vector_cache.stores import LocalVectors
from lensemble.preprocess.features import Features
from lensemble_client import InternalError

ENTRY = 8 * 4 + 256  # bytes that a cached vector of the fake encoder takes


class FakeEncoder:
    """An item's vector is its first id eight times; items with the id 13 fail."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.deadlines: list[int] = []

    def __call__(self, items, deadlines):
        self.deadlines += deadlines
        self.seen += [int(item.input_ids[0]) for item in items]
        return lambda: [
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


def first_numbers(results) -> list[float]:
    return [float(vector[0]) for vector in results]


@pytest.mark.parametrize("capacity", [0, 10_000])
def test_equal_items_of_a_batch_are_encoded_once_and_keep_their_order(capacity):
    encode = FakeEncoder()
    encode_cached = CachingEncoder(encode, LocalVectors(capacity))
    items = [text(3), text(5), text(3), picture(7), text(5), picture(7)]
    assert first_numbers(encode_cached(items)) == [3, 5, 3, 7, 5, 7]
    assert encode.seen == [3, 5, 7]
    counts = encode_cached.counts
    assert (counts.encoded, counts.repeated, counts.cached) == (3, 3, 0)


def test_latest_deadline_of_equal_items_counts():
    encode = FakeEncoder()
    items = [text(1), text(2), text(1), text(3), text(3), text(3)]
    CachingEncoder(encode)(items, [70, 50, 90, 20, 0, 30])
    assert encode.seen == [1, 2, 3]
    assert encode.deadlines == [90, 50, 0]


@pytest.mark.parametrize("valid_beyond_batch", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (text(3), text(4)),
        (text(3), text(3, tokens=2)),
        (picture(), picture(2)),
        (picture(), picture(changed=0)),
        # Row 3 of 64 is not sampled, so only the hash of the whole content differs.
        (picture(), picture(changed=3)),
        (picture(height=4, width=16), picture(height=16, width=4)),
    ],
)
def test_items_with_any_difference_have_different_keys(first, second, valid_beyond_batch):
    keys = content_keys([first, second, first], valid_beyond_batch=valid_beyond_batch)
    assert keys[0] == keys[2] != keys[1]


def test_hash_does_not_depend_on_memory_layout():
    item = picture(changed=3)
    spread = Features(
        item.input_ids, np.asfortranarray(item.patches), np.asfortranarray(item.image_grid_thw)
    )
    assert features_hash(spread) == features_hash(item)


def test_cached_items_are_not_encoded_again():
    encode = FakeEncoder()
    encode_cached = CachingEncoder(encode, LocalVectors(10_000))
    encode_cached([text(3), text(4)])
    assert first_numbers(encode_cached([text(4), text(5), text(3), text(5)])) == [4, 5, 3, 5]
    assert encode.seen == [3, 4, 5]
    counts = encode_cached.counts
    assert (counts.encoded, counts.repeated, counts.cached) == (3, 1, 2)


def test_capacity_of_zero_caches_nothing():
    encode = FakeEncoder()
    encode_cached = CachingEncoder(encode)
    encode_cached([text(3)])
    encode_cached([text(3)])
    assert encode.seen == [3, 3]


def test_least_recently_used_vector_is_dropped_first():
    encode = FakeEncoder()
    encode_cached = CachingEncoder(encode, LocalVectors(2 * ENTRY))
    encode_cached([text(1)])
    encode_cached([text(2)])
    encode_cached([text(1)])  # used again
    encode_cached([text(3)])  # drops 2
    encode.seen.clear()
    encode_cached([text(1), text(3)])
    assert encode.seen == []
    encode_cached([text(2)])
    assert encode.seen == [2]
    assert encode_cached.used_bytes == 2 * ENTRY


def test_vector_larger_than_the_cache_is_returned_but_not_cached():
    encode = FakeEncoder()
    encode_cached = CachingEncoder(encode, LocalVectors(ENTRY - 1))
    assert first_numbers(encode_cached([text(1)])) == first_numbers(encode_cached([text(1)])) == [1]
    assert encode.seen == [1, 1]
    assert encode_cached.used_bytes == 0


def test_errors_are_not_cached_and_do_not_affect_other_items():
    encode = FakeEncoder()
    encode_cached = CachingEncoder(encode, LocalVectors(10_000))
    for _ in range(2):
        bad, good, again = encode_cached([text(13), text(2), text(13)])
        assert isinstance(bad, InternalError) and isinstance(again, InternalError)
        assert good[0] == 2
    assert encode.seen == [13, 2, 13]


def test_caller_cannot_change_a_cached_vector():
    encode_cached = CachingEncoder(FakeEncoder(), LocalVectors(10_000))
    (vector,) = encode_cached([text(2)])
    vector[:] = 9
    (remembered,) = encode_cached([text(2)])
    assert remembered[0] == 2
    with pytest.raises(ValueError, match="read-only"):
        remembered[:] = 9


def test_next_items_can_be_started_before_the_first_are_encoded():
    encode = FakeEncoder()
    encode_cached = CachingEncoder(encode, LocalVectors(10_000))
    first = encode_cached.start([text(1), text(13)])
    second = encode_cached.start([text(2), text(1)])
    assert encode.seen == [1, 13, 2, 1]  # the vector of 1 is not there yet
    assert first_numbers(first()[:1]) == [1]
    assert first_numbers(second()) == [2, 1]
    assert first_numbers(encode_cached([text(1), text(2)])) == [1, 2]
    assert encode.seen == [1, 13, 2, 1]
