"""From emoji to a published checkpoint with its figures: the stages of `python -m`."""

from __future__ import annotations

import json
import platform
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import torch

from demo.emoji.concepts import Picture
from demo.emoji.write_dataset import SAME_THING
from demo.training.batches import INSTRUCTIONS, Batches
from demo.training.card import Facts, card
from demo.training.lesson import Instances, Variants
from demo.training.plan import (
    INSTANCES,
    KEPT,
    Data,
    Plan,
    fingerprint,
    tokenizer_corpus,
    trained_on,
    variants_fingerprint,
)
from demo.training.publish import MAX_PIXELS, MIN_PIXELS, limit_pixels, publish
from demo.training.train import Trainer
from demo.training.watch import clean, embed, recall
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.operations.tritonserver import TritonServer
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble_client import Client
from lensemble_contract.errors import InvalidInputError
from lensemble_evaluation import report
from lensemble_evaluation.dataset import load_dataset, splits
from lensemble_evaluation.evaluate import Evaluation, evaluate
from lensemble_evaluation.plots import plot_evaluation
from lensemble_export.convert_checkpoint import convert_checkpoint
from lensemble_export.random_checkpoint import write_random_checkpoint

SHAPE = "emoji"
FACTS_FILE = "training.json"
Watch = Callable[[TorchEngine, Checkpoint], str]


def train(data: Data, plan: Plan, work: Path, device: str, out: Path) -> str:
    """Trains, from a saved state of this very run if there is one, and publishes.

    A run that validates is a trial: it publishes nothing.

    Args:
        data: What to train on.
        plan: How.
        work: Folder in which runs are kept.
        device: Such as `cpu` or `cuda`.
        out: Where the checkpoint goes.

    Returns:
        What was reached, in words.

    Raises:
        InvalidInputError: `out` holds something else than a checkpoint.
    """
    chosen, watched = trained_on(data.pictures, plan)
    run = work / f"run-{fingerprint(data, plan, chosen)}"
    groups = {"trained": random.Random(plan.seed).sample(chosen, 300), "kept back": watched}

    def watch(encoder: TorchEngine, checkpoint: Checkpoint) -> str:
        return ", ".join(
            f"{name} {recall(encoder, checkpoint, group, data.rendered)}"
            for name, group in groups.items()
            if group
        )

    first = run / "first"
    if not (first / FACTS_FILE).is_file():
        _first_lesson(data, plan, chosen, run, device, watch)
    facts = _facts(first)
    encoder, seconds = _second_lesson(data, plan, chosen, run, device, watch)
    if plan.validate:
        return watch(encoder, Checkpoint.open(first))
    profile = publish(encoder, first, out, min(plan.recipe.dimensions))
    _write_facts(out, replace(facts, hours=round(facts.hours + seconds / 3600, 2)))
    return f"{out}: {profile.hash}"


def _first_lesson(
    data: Data, plan: Plan, chosen: Sequence[Picture], run: Path, device: str, watch: Watch
) -> None:
    """From random weights to `run / first`."""
    checkpoint = Checkpoint.open(_initial(run, tokenizer_corpus(chosen, data.words), plan.seed))
    encoder = _encoder(checkpoint, device)
    batches = Batches(chosen, data.rendered, checkpoint, keywords=data.words, seed=plan.seed)
    lesson = Instances(encoder, batches, plan.recipe.dimensions)
    trainer = Trainer(encoder, lesson, plan.recipe, run)
    trainer.run(lambda: watch(encoder, checkpoint))
    publish(encoder, checkpoint.folder, run / "first", min(plan.recipe.dimensions))
    held_out = [picture for picture in data.pictures if picture.held_out]
    facts = Facts(
        parameters=sum(tensor.numel() for tensor in encoder.model.parameters()),
        pictures=len(chosen),
        held_out=len(held_out),
        concepts=len({picture.concept for picture in held_out}),
        steps=plan.recipe.steps,
        variant_steps=plan.variants.steps,
        seed=plan.seed,
        hours=round(trainer.seconds / 3600, 2),
        machine=_machine(encoder.device),
        font=data.font,
        emoji=version("emoji"),
    )
    _write_facts(run / "first", facts)


def _second_lesson(
    data: Data, plan: Plan, chosen: Sequence[Picture], run: Path, device: str, watch: Watch
) -> tuple[TorchEngine, float]:
    """From `run / first` to what is published; the encoder, and the seconds that it took."""
    checkpoint = Checkpoint.open(run / "first")
    encoder, teacher = _encoder(checkpoint, device), _encoder(checkpoint, device)
    batches = Batches(
        chosen,
        data.rendered,
        checkpoint,
        keywords=data.words,
        sizes=KEPT,
        instructions=[other for other in INSTRUCTIONS if other != SAME_THING],
        seed=plan.seed,
    )
    documents = embed(teacher, Preprocessor(checkpoint), clean(chosen, data.rendered))
    lesson = Variants(
        encoder,
        teacher,
        batches,
        torch.from_numpy(documents),
        [picture.concept for picture in chosen],
        plan.variants.dimensions,
        seed=plan.seed,
    )
    trainer = Trainer(
        encoder, lesson, plan.variants, run / f"variants-{variants_fingerprint(plan)}"
    )
    trainer.run(lambda: watch(encoder, checkpoint))
    return encoder, trainer.seconds


def _encoder(checkpoint: Checkpoint, device: str) -> TorchEngine:
    return TorchEngine.load(
        checkpoint, Settings(checkpoint=checkpoint.folder, dtype="fp32"), device, fused=False
    )


def evaluate_checkpoint(checkpoint: Path, dataset: Path) -> list[Evaluation]:
    """Every split through a real server; figures, plots and card go beside the weights.

    Args:
        checkpoint: Published by `train`.
        dataset: Written by `dataset.write_dataset`.

    Returns:
        One evaluation per split, in the order of their names.

    Raises:
        InvalidInputError: The checkpoint or the dataset is not whole.
        LensembleError: The server fails.
    """
    profile, facts = Profile.load(checkpoint), _facts(checkpoint)
    lengths = sorted({*INSTANCES.dimensions, profile.dimension})
    loaded = [load_dataset(dataset, split) for split in splits(dataset)]
    evaluations = []
    with (
        TritonServer(Settings(checkpoint=checkpoint, dtype="fp32")) as server,
        Client(server.grpc_url) as client,
    ):
        for split in loaded:
            found = evaluate(client, split, dimensions=lengths, progress=True)
            report.save(found, checkpoint / f"evaluation-{found.split}.json")
            plot_evaluation(found, checkpoint / "plots")
            evaluations.append(found)
    (checkpoint / "README.md").write_text(card(profile, facts, evaluations), "utf-8")
    return evaluations


def _facts(checkpoint: Path) -> Facts:
    path = checkpoint / FACTS_FILE
    try:
        return Facts(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInputError(
            f"{str(path)!r} cannot be read ({error}); train the checkpoint first", field="out"
        ) from error


def _write_facts(folder: Path, facts: Facts) -> None:
    (folder / FACTS_FILE).write_text(json.dumps(asdict(facts), indent=1) + "\n", "utf-8")


def _initial(run: Path, corpus: Sequence[str], seed: int) -> Path:
    """A serving checkpoint with random weights and a tokenizer learnt from the corpus."""
    initial, random_ = run / "initial", run / "random"
    if not (initial / "profile.json").is_file():
        shutil.rmtree(random_, ignore_errors=True)
        shutil.rmtree(initial, ignore_errors=True)
        write_random_checkpoint(random_, SHAPE, seed=seed, texts=corpus)
        limit_pixels(random_)
        convert_checkpoint(str(random_), initial, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    return initial


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{torch.get_num_threads()} cores of an {(models or [platform.machine()])[0]}"
