import numpy as np

from lensemble.preprocess.features import Features, fill, unfill
from lensemble_client import InvalidInputError


def item(tokens: int, *grids: tuple[int, int]) -> Features:
    patches = sum(h * w for h, w in grids)
    return Features(
        np.arange(1, tokens + 1, dtype=np.int32),
        np.full((patches, 768), tokens, np.uint8),
        np.array([(1, h, w) for h, w in grids], np.int32).reshape(-1, 3),
    )


def same(one: Features, other: Features) -> bool:
    return (
        np.array_equal(one.input_ids, other.input_ids)
        and np.array_equal(one.patches, other.patches)
        and np.array_equal(one.image_grid_thw, other.image_grid_thw)
    )


def test_filled_up_rows_come_back_without_the_filling():
    items = [item(5), item(3, (2, 4)), item(9, (2, 2), (4, 2))]
    rows = fill(items)
    assert rows["input_ids"].shape == (3, 9)
    assert rows["patches"].shape == (3, 12, 768)
    assert rows["image_grid_thw"].shape == (3, 2, 3)
    assert rows["input_ids"][1].tolist() == [1, 2, 3, -1, -1, -1, -1, -1, -1]
    assert all(same(*pair) for pair in zip(unfill(rows), items, strict=True))


def test_single_item_is_not_filled():
    rows = fill([item(4)])
    assert rows["patches"].shape == (1, 0, 768)
    assert rows["image_grid_thw"].shape == (1, 0, 3)
    assert same(unfill(rows)[0], item(4))


def test_bad_rows_leave_their_neighbours_alone():
    rows = fill([item(3, (2, 2)), item(3, (2, 2)), item(3, (2, 2)), item(3, (2, 2))])
    rows["input_ids"][0] = -1  # no tokens
    rows["input_ids"][1, 0] = -1  # a hole
    rows["image_grid_thw"][2, 0] = (1, 4, 4)  # more patches than were sent
    results = unfill(rows)
    assert [type(result) for result in results[:3]] == [InvalidInputError] * 3
    assert same(results[3], item(3, (2, 2)))


def test_enormous_grid_does_not_overflow():
    rows = fill([item(3, (2, 2))])
    rows["image_grid_thw"] = np.array([[[2**30, 2**30, 16]]], np.int32)
    (error,) = unfill(rows)
    assert isinstance(error, InvalidInputError)
