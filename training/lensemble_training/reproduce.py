"""From emoji to a published checkpoint with its figures: the stages of `python -m`."""

from __future__ import annotations

import hashlib
import json
import platform
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lensemble.checkpoint import Checkpoint
from lensemble.config import Settings
from lensemble.encoder import Encoder
from lensemble.profile import Profile
from lensemble.server import TritonServer
from lensemble_client import Client
from lensemble_client.errors import InvalidInputError
from lensemble_evaluation import report
from lensemble_evaluation.dataset import load_dataset, splits
from lensemble_evaluation.evaluate import Evaluation, evaluate
from lensemble_evaluation.plots import plot
from lensemble_export.convert import convert
from lensemble_export.random_checkpoint import write_random_checkpoint
from lensemble_training.batches import Batches
from lensemble_training.card import Facts, card
from lensemble_training.concepts import Picture, load_pictures
from lensemble_training.publish import MAX_PIXELS, MIN_PIXELS, limit_pixels, publish
from lensemble_training.render import render
from lensemble_training.sources import Keywords, font_file, keywords
from lensemble_training.train import Recipe, Trainer
from lensemble_training.watch import recall

SHAPE = "emoji"
FACTS_FILE = "training.json"
KEPT_BACK_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Data:
    """Everything that is trained on and asked for.

    Attributes:
        pictures: Those that the font shows.
        rendered: Picture id -> (128, 128, 4) uint8 RGBA.
        words: Picture id -> language -> keywords.
        font: sha256 of the font file, in hexadecimal.
    """

    pictures: list[Picture]
    rendered: Mapping[str, NDArray[np.uint8]]
    words: Keywords
    font: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run depends on besides the data.

    Attributes:
        recipe: How to train.
        seed: Of weights and batches.
        validate: Whether a tenth of the training concepts is kept back, too.
    """

    recipe: Recipe
    seed: int = 0
    validate: bool = False


def load_data(work: Path) -> Data:
    """Pictures, names and keywords.

    Args:
        work: Folder in which fetched packages are kept.

    Raises:
        InvalidInputError: Font or keywords cannot be had.
    """
    font = font_file(work)
    pictures = load_pictures()
    rendered = render(pictures, font, progress=True)
    shown = [picture for picture in pictures if picture.id in rendered]
    sha256 = hashlib.sha256(font.read_bytes()).hexdigest()
    return Data(shown, rendered, keywords(work, shown), sha256)


def trained_on(pictures: Sequence[Picture], plan: Plan) -> tuple[list[Picture], list[Picture]]:
    """What a run trains on, and what it keeps back to be watched.

    Args:
        pictures: All.
        plan: Of the run.

    Returns:
        Pictures of both kinds; held-out ones are in neither.
    """
    seen = [picture for picture in pictures if not picture.held_out]
    if not plan.validate:
        return seen, []
    concepts = sorted({picture.concept for picture in seen})
    count = round(KEPT_BACK_SHARE * len(concepts))
    kept_back = set(random.Random(plan.seed).sample(concepts, count))
    return (
        [picture for picture in seen if picture.concept not in kept_back],
        [picture for picture in seen if picture.concept in kept_back],
    )


def tokenizer_corpus(chosen: Sequence[Picture], words: Keywords) -> list[str]:
    """What the tokenizer's merges are learnt from: names and keywords of what is trained on."""
    corpus = [name for picture in chosen for name in picture.names.values()]
    for picture in chosen:
        corpus += [word for listed in words[picture.id].values() for word in listed]
    return corpus


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
    run = work / f"run-{_fingerprint(data, plan, chosen)}"
    checkpoint = Checkpoint.open(_initial(run, tokenizer_corpus(chosen, data.words), plan.seed))
    settings = Settings(checkpoint=checkpoint.folder, dtype="fp32")
    encoder = Encoder.load(checkpoint, settings, device)
    batches = Batches(chosen, data.rendered, checkpoint, keywords=data.words, seed=plan.seed)
    trainer = Trainer(encoder, batches, plan.recipe, run)
    groups = {"trained": random.Random(plan.seed).sample(chosen, 300), "kept back": watched}

    def watch() -> str:
        return ", ".join(
            f"{name} {recall(encoder, checkpoint, group, data.rendered)}"
            for name, group in groups.items()
            if group
        )

    trainer.run(watch)
    if plan.validate:
        return watch()
    profile = publish(encoder, checkpoint.folder, out, min(plan.recipe.dimensions))
    held_out = [picture for picture in data.pictures if picture.held_out]
    facts = Facts(
        parameters=sum(tensor.numel() for tensor in encoder.model.parameters()),
        pictures=len(chosen),
        held_out=len(held_out),
        concepts=len({picture.concept for picture in held_out}),
        steps=plan.recipe.steps,
        seed=plan.seed,
        hours=round(trainer.seconds / 3600, 2),
        machine=_machine(encoder.device),
        font=data.font,
        emoji=version("emoji"),
    )
    (out / FACTS_FILE).write_text(json.dumps(asdict(facts), indent=1) + "\n", "utf-8")
    return f"{out}: {profile.hash}"


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
    lengths = sorted({*Recipe().dimensions, profile.dimension})
    loaded = [load_dataset(dataset, split) for split in splits(dataset)]
    evaluations = []
    with (
        TritonServer(Settings(checkpoint=checkpoint, dtype="fp32")) as server,
        Client(server.grpc_url) as client,
    ):
        for split in loaded:
            found = evaluate(client, split, dimensions=lengths, progress=True)
            report.save(found, checkpoint / f"evaluation-{found.split}.json")
            plot(found, checkpoint / "plots")
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


def _fingerprint(data: Data, plan: Plan, chosen: Sequence[Picture]) -> str:
    """Short hash of all that a run depends on, so that no other run is resumed in its place."""
    said = {
        "plan": asdict(plan),
        "font": data.font,
        "pictures": [(picture.id, picture.names, data.words[picture.id]) for picture in chosen],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def _initial(run: Path, corpus: Sequence[str], seed: int) -> Path:
    """A serving checkpoint with random weights and a tokenizer learnt from the corpus."""
    initial, random_ = run / "initial", run / "random"
    if not (initial / "profile.json").is_file():
        shutil.rmtree(random_, ignore_errors=True)
        shutil.rmtree(initial, ignore_errors=True)
        write_random_checkpoint(random_, SHAPE, seed=seed, corpus=corpus)
        limit_pixels(random_)
        convert(str(random_), initial, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    return initial


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{torch.get_num_threads()} cores of an {(models or [platform.machine()])[0]}"
