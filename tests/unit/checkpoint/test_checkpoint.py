import pytest

from lensemble.checkpoint import Checkpoint
from lensemble_client import InvalidInputError
from tests.profiles import write_fake_checkpoint


@pytest.fixture
def folder(tmp_path):
    return write_fake_checkpoint(tmp_path)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_complete_checkpoint_opens(folder):
    checkpoint = Checkpoint.open(folder, full=True)
    assert (checkpoint.folder, checkpoint.profile.name) == (folder, "test")


def test_missing_file_is_named(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidInputError, match=r"tokenizer.json' is missing"):
        Checkpoint.open(folder)


def test_changed_tokenizer_is_found(folder):
    flip_a_bit(folder / "tokenizer.json")
    with pytest.raises(InvalidInputError, match="is not the file"):
        Checkpoint.open(folder)


def test_truncated_weights_are_found(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidInputError, match=r"has \d+ bytes, but its profile says"):
        Checkpoint.open(folder)


def test_full_check_finds_a_flipped_bit_in_the_weights(folder):
    flip_a_bit(folder / "model.safetensors")
    Checkpoint.open(folder)  # compares only the size of the weights
    with pytest.raises(InvalidInputError, match="is not the file"):
        Checkpoint.open(folder, full=True)
