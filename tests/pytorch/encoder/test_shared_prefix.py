import numpy as np
import pytest
import torch

from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.packing import pack
from lensemble.encoder.pytorch.attention.attention_cpu import attend_per_segment
from lensemble.encoder.shared_prefix import common_prefix_length, share_prefix
from tests.unit.encoder.items import mixed

SPEC = InputSpec(vocab_size=100, image_token_id=99, merge_size=2, num_grid_per_side=48)


def test_common_prefix_leaves_one_token_of_each_item_and_all_pictures():
    assert common_prefix_length([mixed(3), mixed(5)], SPEC) == 2
    assert common_prefix_length([mixed(5), mixed(5, (2, 2))], SPEC) == 4
    # Pictures of one size have the same ids; only their pixels differ.
    pictures = [mixed(2, (4, 4)), mixed(2, (4, 4))]
    length = common_prefix_length(pictures, SPEC)
    first = int(np.flatnonzero(pictures[0].input_ids == SPEC.image_token_id)[0])
    assert length == first
    packed = pack(pictures, SPEC)
    with pytest.raises(ValueError, match=f"a picture is among the first {first + 1} tokens"):
        share_prefix(packed, first + 1)
    assert share_prefix(packed, length).cu_seqlens[0] == length


def test_shared_prefix_is_refused_in_full_attention():
    shared = share_prefix(pack([mixed(3), mixed(5)], SPEC), 2)
    heads = torch.ones(1, 2, shared.input_ids.shape[1], 8)
    with pytest.raises(ValueError, match="a shared prefix is for causal attention"):
        attend_per_segment(heads, heads, heads, shared.cu_seqlens, None, causal=False)
