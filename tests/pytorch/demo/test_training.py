"""Training itself: gradients, the loop, both phases, and the written checkpoint."""

import copy
import random

import pytest
import torch

from demo.emoji.render import on_white
from demo.emoji.write_dataset import SAME_THING
from demo.training.batches import INSTRUCTIONS
from demo.training.checkpoint_writer import write_checkpoint
from demo.training.differentiable_encoding import encode_with_gradients
from demo.training.losses import mean_cosine_distance, variant_loss
from demo.training.objectives import InstanceObjective, VariantObjective
from demo.training.trainer import Trainer, TrainingRecipe
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_client import InvalidInputError, Item
from tests.conftest import EMBEDDING
from tests.pytorch.demo.shapes import draw_shape
from tests.reference import Reference

pytestmark = pytest.mark.slow  # it computes for tens of seconds

DIMENSIONS = TrainingRecipe().dimensions


def test_second_phase_teaches_variants_and_keeps_other_vectors(encoder, load_encoder, batches):
    """Under its instruction, pictures find shapes of other colours; other vectors change little.

    With a weight of 0 on unchanged vectors, those change much more.
    """
    usual = batches(0).items
    shapes = [picture.id.split()[1] for picture in batches._pictures]
    relevant = torch.tensor([[a == b for b in shapes] for a in shapes])
    own = torch.arange(len(shapes))
    with torch.no_grad():
        before = encode_with_gradients(encoder, usual)
        pictures = encode_with_gradients(
            encoder, batches.views(own.tolist(), INSTRUCTIONS[0], random.Random(0))
        )
        queries = batches.views(own.tolist(), SAME_THING, random.Random(1))
        loss_before = variant_loss(
            encode_with_gradients(encoder, queries), pictures, relevant, own, DIMENSIONS
        )
    change = {}
    for keep in (2.0, 0.0):
        learner, teacher = load_encoder(), load_encoder()
        objective = VariantObjective(
            learner, teacher, batches, pictures, shapes, DIMENSIONS, queries=24, keep=keep
        )
        Trainer(learner, objective, TrainingRecipe(steps=10, learning_rate=2e-3)).run(
            progress=False
        )
        with torch.no_grad():
            assert torch.equal(encode_with_gradients(teacher, usual), before)
            change[keep] = mean_cosine_distance(
                encode_with_gradients(learner, usual), before, DIMENSIONS
            ).item()
            vectors = encode_with_gradients(learner, queries)
        assert variant_loss(vectors, pictures, relevant, own, DIMENSIONS) < loss_before
    assert change[2.0] < 0.5 * change[0.0]


def test_gradient_reaches_both_towers_and_every_merger(encoder, batches):
    objective = InstanceObjective(encoder, batches, DIMENSIONS)
    encoder.model.requires_grad_(True)
    objective(0).backward()
    without_gradient = [
        name
        for name, parameter in [*encoder.model.named_parameters(), *objective.named_parameters()]
        if parameter.grad is None or not parameter.grad.abs().sum()
    ]
    assert without_gradient == []
    names = dict(encoder.model.named_parameters())
    assert any("deepstack_merger_list.2" in name for name in names)
    assert any(name.startswith("visual.patch_embed") for name in names)


def test_loss_falls(encoder, batches):
    """On a single batch that is repeated: learning from different batches takes far longer."""
    batch = batches(0)
    objective = InstanceObjective(encoder, lambda step: batch, DIMENSIONS)
    trainer = Trainer(encoder, objective, TrainingRecipe(steps=40, learning_rate=2e-3))
    losses = trainer.run(progress=False)
    assert len(losses) == 40
    assert losses[-1] < 0.7 * losses[0]


def test_interrupted_training_resumes_from_its_last_saved_state(load_encoder, batches, tmp_path):
    """The weights are equal to the bit: interrupted at step 3, it continues from there."""

    def trainer(folder):
        encoder = load_encoder()
        objective = InstanceObjective(encoder, batches, DIMENSIONS)
        return Trainer(encoder, objective, TrainingRecipe(steps=6, save_every=3), folder)

    def interrupt():
        raise KeyboardInterrupt

    whole = trainer(tmp_path / "whole")
    assert len(whole.run(progress=False)) == 6
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut").run(interrupt, progress=False)
    resumed = trainer(tmp_path / "cut")
    assert len(resumed.run(progress=False)) == 3
    assert whole.step == resumed.step == 6
    assert resumed.seconds > 0
    ours = resumed._encoder.model.state_dict()
    for name, tensor in whole._encoder.model.state_dict().items():
        assert torch.equal(ours[name], tensor), name
    assert trainer(tmp_path / "cut").run(progress=False) == []


def test_written_checkpoint_is_the_trained_model(encoder, initial, batches, tmp_path):
    """Transformers' own model, loaded from the written checkpoint, gives the trained vectors."""
    trainer = Trainer(
        encoder, InstanceObjective(encoder, batches, DIMENSIONS), TrainingRecipe(steps=3)
    )
    trainer.run(progress=False)
    weights_before = copy.deepcopy(encoder.model.state_dict())
    profile = write_checkpoint(encoder, initial, tmp_path / "out", 32)
    assert profile.min_dimension == 32
    assert profile.image.max_pixels == 16384
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert size < 16 * 2**20
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(tensor, weights_before[name])
    write_checkpoint(encoder, initial, tmp_path / "out", 32)  # replaces the first checkpoint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(InvalidInputError, match="is not a checkpoint; choose another folder"):
        write_checkpoint(encoder, initial, tmp_path / "mine", 32)
    reference = Reference.load(tmp_path / "out", EMBEDDING)
    reference.max_pixels = 16384
    pipeline = Pipeline(Settings(checkpoint=tmp_path / "out", dtype="fp32"))
    picture = on_white(draw_shape("red", "ring"), 100)
    for item in (Item.of("a red ring"), Item.of(image=picture), Item.of("blue", picture)):
        expected = reference.embed(item)
        (written,) = pipeline.embed([item])
        trained = encoder.encode([pipeline.preprocess(item)])[0]
        assert float(written @ expected) > 0.99999
        assert float(trained @ expected) > 0.9999  # float16
