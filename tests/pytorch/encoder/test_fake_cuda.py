"""The whole encoder on fake CUDA tensors, in the published shapes: see `tests.fake_cuda`."""

import pytest
import torch

from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.synthetic_items import synthetic_picture, synthetic_texts
from tests.fake_cuda import CUDA, fake_engine, run_pass

SPEC = InputSpec(151_936, 151_655, merge_size=2, num_grid_per_side=48)
PICTURES = [synthetic_picture(28, SPEC), synthetic_picture(64, SPEC)]  # 448 and 1024 pixels
TEXTS = synthetic_texts([12, 300, 31], SPEC)
BATCHES = {"pictures": PICTURES, "texts": TEXTS, "mixed": [*TEXTS, *PICTURES], "text": TEXTS[:1]}


@pytest.mark.parametrize("shape", ["2b", "4b", "8b"])
def test_whole_pass_stays_on_the_device_and_never_waits_for_it(shape, monkeypatch, capsys):
    engine, mode = fake_engine(shape, monkeypatch)
    assert (engine.device, engine.dtype) == (CUDA, torch.bfloat16)
    for name, items in BATCHES.items():
        vectors, operations = run_pass(engine, mode, items)
        assert vectors.shape == (len(items), engine.model.config.text_config.hidden_size)
        assert (vectors.device, vectors.dtype) == (CUDA, torch.float32)
        with capsys.disabled():
            print(f"\n{shape}, {name}: {operations.total()} operations", end="")


def break_buffers(engine, mode):
    """The fault of the first version: buffers of the patch embedding stayed on the CPU."""
    embedding = engine.model.visual.patch_embed
    with mode:
        embedding.scale, embedding.shift = torch.ones(768), torch.ones(768)


def break_positions(engine, mode):
    """A fourth row of positions makes Transformers look for the first token of each item."""
    tower = engine.model.language_model
    forward = tower.forward

    def with_fourth_row(**arguments):
        positions = arguments["position_ids"]
        return forward(**arguments | {"position_ids": torch.cat([positions[:1], positions])})

    tower.forward = with_fourth_row


def break_deepstack(engine, mode):
    """Transformers' own function indexes with a boolean mask."""
    engine.model.language_model._deepstack_process = lambda hidden, positions, features: (
        hidden + hidden[hidden > 0].sum()
    )


def break_result(engine, mode):
    """A decision about a result waits for it."""
    norm = engine.model.language_model.norm
    forward = norm.forward
    norm.forward = lambda hidden: forward(hidden if hidden.isfinite().all() else -hidden)


def break_written_mask(engine, mode):
    """Writing by a mask waits for the number of its true values; fake tensors let it pass."""
    norm = engine.model.language_model.norm
    forward = norm.forward

    def masked(hidden):
        hidden = hidden.clone()
        hidden[hidden[..., 0] > 0] = hidden.new_zeros(1, hidden.shape[-1])
        return forward(hidden)

    norm.forward = masked


def break_number(engine, mode):
    """The device "cuda" without a number is the first GPU, and the model is on the second."""
    norm = engine.model.language_model.norm
    forward = norm.forward
    norm.forward = lambda hidden: forward(hidden + torch.ones(1, device="cuda"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_buffers, r"cpu|two different devices"),
        (break_positions, "_local_scalar_dense|nonzero|is_nonzero|data-dependent"),
        (break_deepstack, "nonzero|index"),
        (break_result, "_local_scalar_dense|is_nonzero"),
        (break_written_mask, "by a mask waits"),
        (break_number, "cuda:0|two different devices"),
    ],
)
def test_faults_on_the_device_are_found(fault, message, monkeypatch):
    engine, mode = fake_engine("tiny", monkeypatch)
    run_pass(engine, mode, BATCHES["mixed"])
    fault(engine, mode)
    with pytest.raises(Exception, match=message) as caught:
        run_pass(engine, mode, BATCHES["mixed"])
    assert not isinstance(caught.value, AttributeError | TypeError)
