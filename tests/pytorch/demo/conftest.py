"""A small model and its batches, shared by the tests of the training."""

import pytest

from tests.pytorch.demo.shapes import COLOURS, PICTURES, RENDERED, SHAPES


@pytest.fixture(scope="session")
def initial(tmp_path_factory):
    """A serving checkpoint with random weights."""
    from lensemble_export.convert_checkpoint import convert_checkpoint
    from lensemble_export.random_checkpoint import write_random_checkpoint

    folder = tmp_path_factory.mktemp("training")
    write_random_checkpoint(folder / "random", "emoji", texts=[*COLOURS, *SHAPES])
    convert_checkpoint(
        str(folder / "random"), folder / "initial", min_pixels=4096, max_pixels=16384
    )
    return folder / "initial"


@pytest.fixture(scope="session")
def load_encoder(initial):
    """A function that loads the encoder anew, to be trained."""
    from lensemble.checkpoint import Checkpoint
    from lensemble.encoder.pytorch.load_torch_engine import load_torch_engine
    from lensemble.settings import Settings

    settings = Settings(checkpoint=initial, dtype="fp32")
    return lambda: load_torch_engine(Checkpoint.open(initial), settings, fused=False)


@pytest.fixture
def encoder(load_encoder):
    return load_encoder()


@pytest.fixture(scope="session")
def make_batches(initial):
    """A function from a seed to small batches."""
    from demo.training.batches import Batches, BatchSizes
    from lensemble.checkpoint import Checkpoint

    sizes = BatchSizes(pictures=12, views=4, changes=4, named=2)
    checkpoint = Checkpoint.open(initial)
    return lambda seed: Batches(PICTURES, RENDERED, checkpoint, sizes=sizes, seed=seed)


@pytest.fixture(scope="session")
def batches(make_batches):
    return make_batches(3)
