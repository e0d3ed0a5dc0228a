import numpy as np
import pytest
import torch

from lensemble.encoder import packing
from lensemble.encoder.pytorch.attention_cpu import per_segment
from lensemble.preprocess.features import Features
from lensemble_client import InvalidInputError

GEOMETRY = packing.InputSpec(vocab_size=100, image_token_id=99, merge_size=2, num_grid_per_side=48)


def item(*parts: int | tuple[int, int]) -> Features:
    """Numbers are texts of so many tokens, pairs are pictures of h x w patches."""
    ids, grids = [], []
    for part in parts:
        if isinstance(part, int):
            ids += [1] * part
        else:
            ids += [99] * (part[0] * part[1] // 4)
            grids.append((1, *part))
    patches = sum(h * w for _, h, w in grids)
    return Features(
        np.array(ids, np.int32),
        np.zeros((patches, 768), np.uint8),
        np.array(grids, np.int32).reshape(-1, 3),
    )


def test_positions_of_a_small_item_by_hand():
    # Two words, a picture of 2x3 tokens, one word.
    positions = packing.mrope_positions(item(2, (4, 6), 1), GEOMETRY)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]


@pytest.mark.parametrize(
    "parts",
    [(7,), (3, (2, 2), 4), ((8, 2), 1), (5, (2, 12), 2, (6, 4), 3, (2, 2), 9), (1, (10, 10))],
)
def test_positions_equal_transformers(pipeline, parts):
    model = pipeline.encoder.model
    mine = item(*parts)
    ids = torch.from_numpy(mine.input_ids.astype(np.int64))[None]
    theirs, _ = model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == 99).int(),
        image_grid_thw=torch.from_numpy(mine.image_grid_thw.astype(np.int64)),
    )
    np.testing.assert_array_equal(packing.mrope_positions(mine, GEOMETRY), theirs[:, 0].numpy())


def test_pack_puts_items_side_by_side():
    packed = packing.pack([item(3), item(1, (2, 4), 2)], GEOMETRY)
    assert packed.input_ids.tolist() == [[1, 1, 1, 1, 99, 99, 1, 1]]
    assert packed.position_ids.shape == (4, 1, 8)
    assert packed.position_ids[0, 0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert packed.cu_seqlens.tolist() == [0, 3, 8]
    assert packed.max_seqlen == 5
    assert packed.visual_positions.tolist() == [4, 5]
    assert packed.vision_cu_seqlens.tolist() == [0, 8]
    assert packed.vision_max_seqlen == 8


def test_pack_of_texts_has_no_pictures():
    packed = packing.pack([item(3), item(2)], GEOMETRY)
    assert len(packed.patches) == len(packed.visual_positions) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.input_ids.__setitem__(0, 100), "expected 0 to 99"),
        (lambda f: f.input_ids.__setitem__(0, -7), "expected 0 to 99"),
        (lambda f: f.input_ids.__setitem__(0, 99), "the pictures take"),
        (lambda f: f.image_grid_thw.__setitem__((0, 1), 3), "multiples of 2"),
        (lambda f: f.image_grid_thw.__setitem__((0, 0), 2), "multiples of 2"),
        (lambda f: f.image_grid_thw.__setitem__((0, 1), 8), "the pictures take"),
    ],
)
def test_features_that_would_break_the_model_are_refused(change, reason):
    features = item(2, (4, 4), 1)
    packing.check(features, GEOMETRY)
    change(features)
    with pytest.raises(InvalidInputError, match=reason):
        packing.check(features, GEOMETRY)


@pytest.mark.parametrize(
    ("tokens", "patches", "expected"),
    [
        (100, 100, [[0, 1, 2, 3]]),
        (8, 100, [[0, 1], [2], [3]]),
        (1, 100, [[0], [1], [2], [3]]),
        (100, 8, [[0, 1, 2], [3]]),
    ],
)
def test_micro_batches_keep_both_budgets(tokens, patches, expected):
    items = [item(4), item(4), item(2, (2, 4), 1), item(5, (2, 4), 1)]
    assert packing.micro_batches(items, tokens, patches) == expected


def test_common_prefix_leaves_a_token_of_each_and_every_picture():
    assert packing.common_prefix([item(3), item(5)], GEOMETRY) == 2
    assert packing.common_prefix([item(5), item(5, (2, 2))], GEOMETRY) == 4
    # Pictures of one size, one way only to tell them apart: their pixels.
    pictures = [item(2, (4, 4)), item(2, (4, 4))]
    count = packing.common_prefix(pictures, GEOMETRY)
    first = int(np.flatnonzero(pictures[0].input_ids == GEOMETRY.image_token_id)[0])
    assert count == first
    packed = packing.pack(pictures, GEOMETRY)
    with pytest.raises(ValueError, match=f"a picture is among the first {first + 1} tokens"):
        packing.share_prefix(packed, first + 1)
    assert packing.share_prefix(packed, count).cu_seqlens[0] == count


def test_shared_prefix_is_for_cpus_and_for_what_cannot_see_ahead():
    shared = packing.share_prefix(packing.pack([item(3), item(5)], GEOMETRY), 2)
    with pytest.raises(ValueError, match="a shared prefix is for CPUs"):
        shared.to(torch.device("meta"))
    heads = torch.ones(1, 2, shared.input_ids.shape[1], 8)
    with pytest.raises(ValueError, match="a shared prefix is for causal attention"):
        per_segment(heads, heads, heads, shared.cu_seqlens, None, causal=False)
