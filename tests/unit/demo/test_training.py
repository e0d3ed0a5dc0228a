"""Training: what a batch holds, what the loss is, and that everything learns."""

import copy
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional

from demo.emoji.augment import augment, premultiplied
from demo.emoji.captions import FRAMES
from demo.emoji.concepts import Picture
from demo.emoji.render import on_white
from demo.emoji.write_dataset import SAME_THING, write_dataset
from demo.training.batches import INSTRUCTIONS, Batches, Sizes, Texts
from demo.training.forward import vectors
from demo.training.lesson import Instances, Variants
from demo.training.objective import Objective, apart, variants
from demo.training.publish import publish
from demo.training.train import Recipe, Trainer
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_client import InvalidInputError, Item
from lensemble_evaluation.dataset import load_dataset, splits
from lensemble_export.convert_checkpoint import convert_checkpoint
from lensemble_export.random_checkpoint import write_random_checkpoint
from tests.conftest import EMBEDDING
from tests.reference import Reference

DIMENSIONS = Recipe().dimensions
SIZES = Sizes(pictures=12, views=4, changes=4, named=2)
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "bar", "ring")


def drawn(colour: str, shape: str) -> np.ndarray:
    canvas = Image.new("RGBA", (128, 128))
    draw = ImageDraw.Draw(canvas)
    box = (24, 24, 104, 104)
    if shape == "circle":
        draw.ellipse(box, colour)
    elif shape == "square":
        draw.rectangle(box, colour)
    elif shape == "bar":
        draw.rectangle((54, 10, 74, 118), colour)
    else:
        draw.ellipse(box, outline=colour, width=14)
    return np.asarray(canvas)


@pytest.fixture(scope="module")
def pictures():
    return [
        Picture(
            f"{colour} {shape}",
            "x",
            f"{colour} {shape}",
            dict.fromkeys(FRAMES, f"{colour} {shape}"),
            False,
        )
        for colour in COLOURS
        for shape in SHAPES
    ]


@pytest.fixture(scope="module")
def rendered(pictures):
    return {picture.id: drawn(*picture.id.split()) for picture in pictures}


@pytest.fixture(scope="module")
def initial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    write_random_checkpoint(folder / "random", "emoji", texts=[*COLOURS, *SHAPES])
    convert_checkpoint(
        str(folder / "random"), folder / "initial", min_pixels=4096, max_pixels=16384
    )
    return folder / "initial"


@pytest.fixture(scope="module")
def checkpoint(initial):
    return Checkpoint.open(initial)


@pytest.fixture
def encoder(checkpoint):
    return TorchEngine.load(
        checkpoint, Settings(checkpoint=checkpoint.folder, dtype="fp32"), fused=False
    )


@pytest.fixture(scope="module")
def batches(pictures, rendered, checkpoint):
    return Batches(pictures, rendered, checkpoint, sizes=SIZES, seed=3)


def same(one, other) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one.items, other.items, strict=True)
        for name in ("input_ids", "patches", "image_grid_thw")
    ) and torch.equal(one.targets, other.targets)


def test_batch_depends_on_seed_and_step_alone(batches, pictures, rendered, checkpoint):
    again = Batches(pictures, rendered, checkpoint, sizes=SIZES, seed=3)
    other = Batches(pictures, rendered, checkpoint, sizes=SIZES, seed=4)
    assert same(batches(7), again(7))
    assert not same(batches(7), again(8))
    assert not same(batches(7), other(7))


def test_batch_is_pictures_then_queries_with_texts_last(batches):
    batch = batches(0)
    queries = batch.items[batch.pictures :]
    assert (batch.pictures, batch.texts) == (12, 12)
    assert len(queries) == len(batch.targets)
    assert all(len(item.image_grid_thw) == 1 for item in batch.items[: -batch.texts])
    assert not any(len(item.image_grid_thw) for item in queries[-batch.texts :])
    assert sorted(batch.targets[-batch.texts :].tolist()) == list(range(12))


def test_words_are_cut_and_nothing_else_is(checkpoint):
    texts = Texts(checkpoint)
    rng = random.Random(0)
    plain = texts._prompt.ids("purple circle", [], None)
    made = [texts.ids("purple circle", 0, "Represent the user's input.", rng) for _ in range(40)]
    assert any(np.array_equal(ids, plain) for ids in made)
    assert any(len(ids) > len(plain) for ids in made)
    # Prompt and tokenizer agree but for where words are cut: the text is the same.
    decode = texts._tokenizer.decode
    assert {decode(ids.tolist()) for ids in made} == {decode(plain.tolist())}


def test_augmenting_keeps_clean_pictures_clean(rendered):
    pixels = np.stack(list(rendered.values()))
    clean = augment(premultiplied(pixels, 64), (64, 64), torch.Generator().manual_seed(0), 1.0)
    for picture, rgba in zip(clean, pixels, strict=True):
        expected = np.asarray(on_white(rgba, 64)).astype(int)
        found = picture.permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected).mean() < 3  # two ways of making it smaller
    damaged = augment(premultiplied(pixels, 96), (64, 96), torch.Generator().manual_seed(0), 0.0)
    assert damaged.shape == (len(pixels), 3, 64, 96)
    assert (damaged.float().std(dim=(1, 2, 3)) > 1).all()


def test_objective_is_the_mean_of_cross_entropies_both_ways():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3 + 5, 8, generator=generator)
    targets = torch.tensor([2, 0, 1, 2, 0])  # two other queries, then texts of pictures 1, 2, 0
    expected = []
    for length in (4, 8):
        unit = functional.normalize(vectors[:, :length])
        scores = unit[3:] @ unit[:3].T / 0.07
        expected.append(functional.cross_entropy(scores, targets))
        texts = scores[2:]
        expected.append(functional.cross_entropy(texts.T, torch.tensor([2, 0, 1])))
    found = Objective((4, 8))(vectors, 3, 3, targets)
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)


def test_variants_are_each_held_against_what_is_no_variant():
    generator = torch.Generator().manual_seed(0)
    queries, documents = (torch.randn(n, 8, generator=generator) for n in (2, 6))
    relevant = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]], dtype=torch.bool)
    own = torch.tensor([1, 3])
    expected = []
    for length in (4, 8):
        scores = 20 * (
            functional.normalize(queries[:, :length])
            @ functional.normalize(documents[:, :length]).T
        )
        for query, wanted, others in ((0, (0, 2), (3, 4, 5)), (1, (4,), (0, 1, 2, 5))):
            each = [
                torch.log(1 + sum(torch.exp(scores[query, n] - scores[query, p]) for n in others))
                for p in wanted
            ]
            expected.append(sum(each) / len(each))
    found = variants(queries, documents, relevant, own, (4, 8))
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_apart_is_one_minus_cosine():
    one = torch.tensor([[1.0, 0, 3, 0], [0, 2, 0, 0]])
    other = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    # At length 2 both agree; at length 4 the first has cosine 1 / sqrt(10).
    assert apart(one, other, (2,)).item() == pytest.approx(0, abs=1e-6)
    assert apart(one, other, (2, 4)).item() == pytest.approx((1 - 10**-0.5) / 4, abs=1e-6)


def test_second_lesson_teaches_variants_and_leaves_the_rest(encoder, checkpoint, batches):
    """Under its instruction, shapes of other colours come near; under the usual one, little moves.

    Without the weight on staying, much does: this is what the weight is for.
    """

    def load():
        return TorchEngine.load(
            checkpoint, Settings(checkpoint=checkpoint.folder, dtype="fp32"), fused=False
        )

    usual = batches(0).items
    shapes = [picture.id.split()[1] for picture in batches._pictures]
    relevant = torch.tensor([[a == b for b in shapes] for a in shapes])
    own = torch.arange(len(shapes))
    with torch.no_grad():
        before = vectors(encoder, usual)
        documents = vectors(encoder, batches.views(own.tolist(), INSTRUCTIONS[0], random.Random(0)))
        asked = batches.views(own.tolist(), SAME_THING, random.Random(1))
        unlearnt = variants(vectors(encoder, asked), documents, relevant, own, DIMENSIONS)
    moved = {}
    for keep in (2.0, 0.0):
        learner, teacher = load(), load()
        lesson = Variants(
            learner, teacher, batches, documents, shapes, DIMENSIONS, queries=24, keep=keep
        )
        Trainer(learner, lesson, Recipe(steps=10, learning_rate=2e-3)).run(progress=False)
        with torch.no_grad():
            assert torch.equal(vectors(teacher, usual), before)
            moved[keep] = apart(vectors(learner, usual), before, DIMENSIONS).item()
            found = vectors(learner, asked)
        assert variants(found, documents, relevant, own, DIMENSIONS) < unlearnt
    assert moved[2.0] < 0.5 * moved[0.0]


def test_gradient_reaches_both_towers_and_every_merger(encoder, batches):
    lesson = Instances(encoder, batches, DIMENSIONS)
    encoder.model.requires_grad_(True)
    lesson(0).backward()
    without = [
        name
        for name, parameter in [*encoder.model.named_parameters(), *lesson.named_parameters()]
        if parameter.grad is None or not parameter.grad.abs().sum()
    ]
    assert without == []
    names = dict(encoder.model.named_parameters())
    assert any("deepstack_merger_list.2" in name for name in names)
    assert any(name.startswith("visual.patch_embed") for name in names)


def test_loss_falls(encoder, batches):
    """On one batch over and over: learning to tell pictures apart in general takes far longer."""
    batch = batches(0)
    lesson = Instances(encoder, lambda step: batch, DIMENSIONS)
    trainer = Trainer(encoder, lesson, Recipe(steps=40, learning_rate=2e-3))
    losses = trainer.run(progress=False)
    assert len(losses) == 40
    assert losses[-1] < 0.7 * losses[0]


def test_training_resumes_where_it_was_cut(checkpoint, batches, tmp_path):
    """To the bit: what was cut off after step 4 goes on from step 3, which was saved."""

    def trainer(folder):
        encoder = TorchEngine.load(
            checkpoint, Settings(checkpoint=checkpoint.folder, dtype="fp32"), fused=False
        )
        lesson = Instances(encoder, batches, DIMENSIONS)
        return Trainer(encoder, lesson, Recipe(steps=6, save_every=3), folder)

    def cut():
        raise KeyboardInterrupt

    whole = trainer(tmp_path / "whole")
    assert len(whole.run(progress=False)) == 6
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut").run(cut, progress=False)
    resumed = trainer(tmp_path / "cut")
    assert len(resumed.run(progress=False)) == 3
    assert whole.step == resumed.step == 6
    assert resumed.seconds > 0
    ours = resumed._encoder.model.state_dict()
    for name, tensor in whole._encoder.model.state_dict().items():
        assert torch.equal(ours[name], tensor), name
    assert trainer(tmp_path / "cut").run(progress=False) == []


def test_published_checkpoint_is_the_trained_model(encoder, initial, batches, tmp_path):
    """Transformers' own model, loaded from what was published, gives the trained vectors."""
    trainer = Trainer(encoder, Instances(encoder, batches, DIMENSIONS), Recipe(steps=3))
    trainer.run(progress=False)
    before = copy.deepcopy(encoder.model.state_dict())
    profile = publish(encoder, initial, tmp_path / "out", 32)
    assert profile.min_dimension == 32
    assert profile.image.max_pixels == 16384
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert size < 16 * 2**20
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    publish(encoder, initial, tmp_path / "out", 32)  # an earlier checkpoint is replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(InvalidInputError, match="is no checkpoint; choose another folder"):
        publish(encoder, initial, tmp_path / "mine", 32)
    reference = Reference.load(tmp_path / "out", EMBEDDING)
    reference.max_pixels = 16384
    pipeline = Pipeline(Settings(checkpoint=tmp_path / "out", dtype="fp32"))
    picture = on_white(drawn("red", "ring"), 100)
    for item in (Item.of("a red ring"), Item.of(image=picture), Item.of("blue", picture)):
        expected = reference.embed(item)
        (published,) = pipeline.embed([item])
        trained = encoder.encode([pipeline.preprocess(item)])[0]
        assert float(published @ expected) > 0.99999
        assert float(trained @ expected) > 0.9999  # float16


def test_written_dataset_can_be_evaluated(pictures, rendered, tmp_path):
    """Every split: nothing held out among what is trained, and each query's target is searched."""
    toned = [
        Picture(name, emoji, "hand", dict.fromkeys(FRAMES, name), True)
        for name, emoji in (("hand", "✋"), ("hand dark skin tone", "✋🏿"))
    ]
    hands = {p.id: drawn(colour, "bar") for p, colour in zip(toned, ("pink", "brown"), strict=True)}
    # Held out by its name, but seen under another one.
    twin = Picture("twin", "x", "twin", dict.fromkeys(FRAMES, "twin"), True)
    toned, hands = [*toned, twin], {**hands, "twin": rendered["red circle"]}
    write_dataset(tmp_path / "d", [*pictures, *toned], rendered | hands)
    loaded = {split: load_dataset(tmp_path / "d", split) for split in splits(tmp_path / "d")}
    assert {name: len(split.corpus) for name, split in loaded.items()} == {
        "all": 27,
        "held_out": 2,
        "trained": 24,
    }
    held_out = loaded["held_out"]
    assert {entry.document["task"] for entry in held_out.queries} == {
        "text to picture",
        "picture to picture",
        "picture to variants",
        "picture and text to picture",
    }
    (fused,) = [q for q in held_out.queries if q.id.startswith("fused-es")]
    assert fused.text == "lo mismo, pero con piel oscura"
    assert held_out.excluded[fused.id] == {"hand"}
    assert held_out.qrels[fused.id] == {"hand dark skin tone": 1}
    assert held_out.qrels["variants-hand"] == {"hand dark skin tone": 1}
    instructions = {q.document["task"]: q.instruction for q in held_out.queries}
    assert instructions.pop("picture to variants") == SAME_THING
    assert set(instructions.values()) == {None}
    write_dataset(tmp_path / "d", [*pictures, *toned], rendered | hands)  # replaces its own
    with pytest.raises(InvalidInputError, match="is no dataset; choose another folder"):
        write_dataset(tmp_path, pictures, rendered)
    assert "SIL OPEN FONT LICENSE" in (tmp_path / "d" / "LICENSE").read_text()
    assert all(entry.item().images for entry in held_out.corpus)
