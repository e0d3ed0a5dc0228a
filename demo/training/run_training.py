"""Runs both training phases, from random weights to the demo checkpoint."""

from __future__ import annotations

import platform
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from demo.emoji.concepts import Picture
from demo.emoji.write_dataset import SAME_THING
from demo.training.batches import INSTRUCTIONS, Batches
from demo.training.checkpoint_writer import MAX_PIXELS, MIN_PIXELS, limit_pixels, write_checkpoint
from demo.training.model_card import TrainingFacts, has_facts, read_facts, write_facts
from demo.training.objectives import InstanceObjective, VariantObjective
from demo.training.trainer import Trainer
from demo.training.training_data import TrainingData, tokenizer_corpus
from demo.training.training_plan import (
    UNCHANGED,
    TrainingPlan,
    fingerprint,
    split_pictures,
    variants_fingerprint,
)
from demo.training.validation import clean_pictures, embed, format_recall
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.pytorch.load_torch_engine import load_torch_engine
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble.settings import Settings
from lensemble_export.convert_checkpoint import convert_checkpoint
from lensemble_export.random_checkpoint import write_random_checkpoint

SHAPE = "emoji"
# Function from an encoder and its checkpoint to a line with the recall that it reaches.
Report = Callable[[TorchEngine, Checkpoint], str]


def train(data: TrainingData, plan: TrainingPlan, work: Path, device: str, out: Path) -> str:
    """Trains from a saved state of the same run, or from the start, and writes the checkpoint.

    A run that validates is a trial and writes no checkpoint.

    Args:
        data: Pictures and words to train on.
        plan: Plan of the run.
        work: Folder in which the states of runs are kept.
        device: Device, such as `cpu` or `cuda`.
        out: Folder of the checkpoint.

    Returns:
        Text with the checkpoint's hash, or with the recall that a trial reached.

    Raises:
        InvalidInputError: `out` contains something other than a checkpoint.
    """
    trained_on, kept_back = split_pictures(data.pictures, plan)
    run = work / f"run-{fingerprint(data, plan, trained_on)}"
    sample = random.Random(plan.seed).sample(trained_on, 300)
    groups = {"trained": sample, "kept back": kept_back}

    def report(encoder: TorchEngine, checkpoint: Checkpoint) -> str:
        return ", ".join(
            f"{name} {format_recall(encoder, checkpoint, group, data.rendered)}"
            for name, group in groups.items()
            if group
        )

    first = run / "first"
    if not has_facts(first):
        _first_phase(data, plan, trained_on, run, device, report)
    facts = read_facts(first)
    encoder, seconds = _second_phase(data, plan, trained_on, run, device, report)
    if plan.validate:
        return report(encoder, Checkpoint.open(first))
    profile = write_checkpoint(encoder, first, out, min(plan.recipe.dimensions))
    write_facts(out, replace(facts, hours=round(facts.hours + seconds / 3600, 2)))
    return f"{out}: {profile.hash}"


def _first_phase(
    data: TrainingData,
    plan: TrainingPlan,
    trained_on: Sequence[Picture],
    run: Path,
    device: str,
    report: Report,
) -> None:
    """Trains from random weights, and writes the checkpoint `run / first`."""
    checkpoint = Checkpoint.open(
        _initial_checkpoint(run, tokenizer_corpus(trained_on, data.keywords), plan.seed)
    )
    encoder = _encoder(checkpoint, device)
    batches = Batches(trained_on, data.rendered, checkpoint, keywords=data.keywords, seed=plan.seed)
    objective = InstanceObjective(encoder, batches, plan.recipe.dimensions)
    trainer = Trainer(encoder, objective, plan.recipe, run)
    trainer.run(lambda: report(encoder, checkpoint))
    write_checkpoint(encoder, checkpoint.folder, run / "first", min(plan.recipe.dimensions))
    held_out = [picture for picture in data.pictures if picture.held_out]
    facts = TrainingFacts(
        parameters=sum(tensor.numel() for tensor in encoder.model.parameters()),
        pictures=len(trained_on),
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
    write_facts(run / "first", facts)


def _second_phase(
    data: TrainingData,
    plan: TrainingPlan,
    trained_on: Sequence[Picture],
    run: Path,
    device: str,
    report: Report,
) -> tuple[TorchEngine, float]:
    """Trains from `run / first` on; returns the encoder and the seconds that it took."""
    checkpoint = Checkpoint.open(run / "first")
    encoder, teacher = _encoder(checkpoint, device), _encoder(checkpoint, device)
    batches = Batches(
        trained_on,
        data.rendered,
        checkpoint,
        keywords=data.keywords,
        sizes=UNCHANGED,
        instructions=[text for text in INSTRUCTIONS if text != SAME_THING],
        seed=plan.seed,
    )
    picture_vectors = embed(
        teacher, Preprocessor(checkpoint), clean_pictures(trained_on, data.rendered)
    )
    objective = VariantObjective(
        encoder,
        teacher,
        batches,
        torch.from_numpy(picture_vectors),
        [picture.concept for picture in trained_on],
        plan.variants.dimensions,
        seed=plan.seed,
    )
    trainer = Trainer(
        encoder, objective, plan.variants, run / f"variants-{variants_fingerprint(plan)}"
    )
    trainer.run(lambda: report(encoder, checkpoint))
    return encoder, trainer.seconds


def _encoder(checkpoint: Checkpoint, device: str) -> TorchEngine:
    return load_torch_engine(
        checkpoint, Settings(checkpoint=checkpoint.folder, dtype="fp32"), device, fused=False
    )


def _initial_checkpoint(run: Path, corpus: Sequence[str], seed: int) -> Path:
    """Returns a checkpoint with random weights and a tokenizer that was learnt from the corpus."""
    initial, source = run / "initial", run / "random"
    if not (initial / "profile.json").is_file():
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(initial, ignore_errors=True)
        write_random_checkpoint(source, SHAPE, seed=seed, texts=corpus)
        limit_pixels(source)
        convert_checkpoint(str(source), initial, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    return initial


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{torch.get_num_threads()} cores of an {(models or [platform.machine()])[0]}"
