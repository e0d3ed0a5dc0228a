import numpy as np

from lensemble.preprocess.features import Features, pad, unpad
from lensemble_client import InvalidInputError


def item(tokens: int, *grids: tuple[int, int]) -> Features:
    patches = sum(h * w for h, w in grids)
    return Features(
        np.arange(1, tokens + 1, dtype=np.int32),
        np.full((patches, 768), tokens, np.uint8),
        np.array([(1, h, w) for h, w in grids], np.int32).reshape(-1, 3),
    )


def equal(first: Features, second: Features) -> bool:
    return (
        np.array_equal(first.input_ids, second.input_ids)
        and np.array_equal(first.patches, second.patches)
        and np.array_equal(first.image_grid_thw, second.image_grid_thw)
    )


def test_unpad_removes_what_pad_added():
    items = [item(5), item(3, (2, 4)), item(9, (2, 2), (4, 2))]
    rows = pad(items)
    assert rows["input_ids"].shape == (3, 9)
    assert rows["patches"].shape == (3, 12, 768)
    assert rows["image_grid_thw"].shape == (3, 2, 3)
    assert rows["input_ids"][1].tolist() == [1, 2, 3, -1, -1, -1, -1, -1, -1]
    assert all(equal(*pair) for pair in zip(unpad(rows), items, strict=True))


def test_single_item_is_not_padded():
    rows = pad([item(4)])
    assert rows["patches"].shape == (1, 0, 768)
    assert rows["image_grid_thw"].shape == (1, 0, 3)
    assert equal(unpad(rows)[0], item(4))


def test_bad_row_does_not_affect_its_neighbours():
    rows = pad([item(3, (2, 2)), item(3, (2, 2)), item(3, (2, 2)), item(3, (2, 2))])
    rows["input_ids"][0] = -1  # no tokens
    rows["input_ids"][1, 0] = -1  # padding before a token
    rows["image_grid_thw"][2, 0] = (1, 4, 4)  # more patches than were sent
    results = unpad(rows)
    assert [type(result) for result in results[:3]] == [InvalidInputError] * 3
    assert equal(results[3], item(3, (2, 2)))


def test_huge_grid_does_not_overflow():
    rows = pad([item(3, (2, 2))])
    rows["image_grid_thw"] = np.array([[[2**30, 2**30, 16]]], np.int32)
    (error,) = unpad(rows)
    assert isinstance(error, InvalidInputError)
