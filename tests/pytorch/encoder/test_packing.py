from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.packing import pack
from tests.unit.encoder.items import mixed

SPEC = InputSpec(vocab_size=100, image_token_id=99, merge_size=2, num_grid_per_side=48)


def test_pack_puts_items_into_one_row():
    packed = pack([mixed(3), mixed(1, (2, 4), 2)], SPEC)
    assert packed.input_ids.tolist() == [[1, 1, 1, 1, 99, 99, 1, 1]]
    assert packed.position_ids.shape == (3, 1, 8)
    assert packed.position_ids[0, 0].tolist() == [0, 1, 2, 0, 1, 1, 3, 4]
    assert packed.cu_seqlens.tolist() == [0, 3, 8]
    assert packed.max_seqlen == 5
    assert packed.visual_positions.tolist() == [4, 5]
    assert packed.vision_cu_seqlens.tolist() == [0, 8]
    assert packed.vision_max_seqlen == 8


def test_texts_have_no_patches():
    packed = pack([mixed(3), mixed(2)], SPEC)
    assert len(packed.patches) == len(packed.visual_positions) == 0
