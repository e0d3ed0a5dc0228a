import shutil

import pytest

from lensemble.checkpoint import Checkpoint
from lensemble_client import InvalidInputError


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_whole_checkpoint_opens(copy):
    assert Checkpoint.open(copy, full=True).profile.name == "qwen3-vl-embedding"


def test_missing_file_is_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InvalidInputError, match=r"tokenizer.json' is missing"):
        Checkpoint.open(copy)


def test_changed_tokenizer_is_found(copy):
    flip(copy / "tokenizer.json")
    with pytest.raises(InvalidInputError, match="is not the file"):
        Checkpoint.open(copy)


def test_truncated_weights_are_found(copy):
    (weights,) = copy.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidInputError, match=r"has \d+ bytes, but its profile says"):
        Checkpoint.open(copy)


def test_flipped_bit_in_the_weights_is_found_by_the_full_check(copy):
    (weights,) = copy.glob("*.safetensors")
    flip(weights)
    Checkpoint.open(copy)
    with pytest.raises(InvalidInputError, match="is not the file"):
        Checkpoint.open(copy, full=True)
