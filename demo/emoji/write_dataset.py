"""Writes the evaluation dataset that `lensemble eval` reads: pictures, queries, judgments.

There are four tasks. A name must find its picture, in every language; a damaged picture must find
the original; under an instruction, a picture must find the other variants of its concept; and a
picture with words ("the same, but with dark skin") must find the picture that is meant.

There are three splits: `held_out` searches only held-out pictures, `trained` those that were
trained on, and `all` searches both. The queries of the last two are a sample, as are those with
damaged pictures and with changes.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from demo.emoji import captions
from demo.emoji.augment import augment, premultiplied
from demo.emoji.concepts import LANGUAGES, Picture
from demo.emoji.render import on_white
from lensemble_contract.errors import InvalidInputError

TEXT, DAMAGED = "text to picture", "picture to picture"
VARIANTS, FUSED = "picture to variants", "picture and text to picture"
# The instruction under which a picture means every picture of its concept.
SAME_THING = "Find pictures of the same thing."
SIZE = 64
DAMAGED_SIZE = 96
SAMPLES = {"trained": 300, "all": 300}
DAMAGED_SAMPLE = 150
FUSED_SAMPLE = 150
FUSED_LANGUAGES = ("en", "es")

Judgments = dict[str, dict[str, int]]


def write_dataset(
    folder: Path,
    pictures: Sequence[Picture],
    rendered: Mapping[str, NDArray[np.uint8]],
    seed: int = 0,
) -> None:
    """Writes the dataset.

    Args:
        folder: Folder to write; an existing dataset is replaced.
        pictures: All pictures; those that the font cannot show are left out.
        rendered: Picture id -> (128, 128, 4) uint8 RGBA.
        seed: Seed of the choice of queries.

    Raises:
        InvalidInputError: The folder contains something other than a dataset.
    """
    if folder.exists() and not (folder / "qrels").is_dir() and any(folder.iterdir()):
        raise InvalidInputError(
            f"{str(folder)!r} exists and is not a dataset; choose another folder", field="dataset"
        )
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("images", "damaged", "qrels", "candidates"):
        (folder / name).mkdir(parents=True)
    licence = (resources.files(__package__) / "LICENSE.pictures").read_text("utf-8")
    (folder / "LICENSE").write_text(licence, "utf-8")
    shown = [picture for picture in pictures if picture.id in rendered]
    for picture in shown:
        path = folder / "images" / f"{picture.id}.webp"
        on_white(rendered[picture.id], SIZE).save(path, quality=90, method=6)
    _write_lines(folder / "corpus.jsonl", map(_document, shown))
    queries: dict[str, dict[str, Any]] = {}
    damaged: dict[str, Picture] = {}
    for split, searched in _splits(shown, rendered).items():
        rng = random.Random(f"{seed}/{split}")
        queried = rng.sample(searched, min(SAMPLES.get(split, len(searched)), len(searched)))
        queried.sort(key=lambda picture: picture.id)
        qrels: Judgments = {}
        to_damage = rng.sample(queried, min(DAMAGED_SAMPLE, len(queried)))
        damaged |= {picture.id: picture for picture in to_damage}
        for task_queries in (
            _texts(queried),
            _damaged(to_damage),
            _variants(queried, searched),
        ):
            for query, relevant in task_queries:
                queries[query["_id"]] = query
                qrels[query["_id"]] = relevant
        for query, relevant in _fused(searched, rng):
            queries[query["_id"]] = query
            qrels[query["_id"]] = relevant
        _write_qrels(folder / "qrels" / f"{split}.tsv", qrels)
        if len(searched) < len(shown):
            ids = "".join(f"{picture.id}\n" for picture in searched)
            (folder / "candidates" / f"{split}.txt").write_text(ids)
    _write_lines(folder / "queries.jsonl", queries.values())
    _write_damaged(folder, sorted(damaged), rendered, seed)


def _splits(
    shown: Sequence[Picture], rendered: Mapping[str, NDArray[np.uint8]]
) -> dict[str, list[Picture]]:
    # Some flags have identical pixels: a picture that was trained on under another name is not new.
    seen = {rendered[picture.id].tobytes() for picture in shown if not picture.held_out}
    return {
        "held_out": [p for p in shown if p.held_out and rendered[p.id].tobytes() not in seen],
        "trained": [picture for picture in shown if not picture.held_out],
        "all": list(shown),
    }


def _document(picture: Picture) -> dict[str, Any]:
    return {
        "_id": picture.id,
        "image": f"images/{picture.id}.webp",
        "emoji": picture.emoji,
        "concept": picture.concept,
        "held_out": picture.held_out,
        **picture.names,
    }


def _texts(queried: Iterable[Picture]) -> Iterable[tuple[dict[str, Any], dict[str, int]]]:
    for picture in queried:
        for language in LANGUAGES:
            name = picture.names[language]
            id_ = f"text-{language}-{picture.id}"
            yield (
                {"_id": id_, "text": name, "task": TEXT, "language": language},
                {picture.id: 1},
            )


def _damaged(queried: Iterable[Picture]) -> Iterable[tuple[dict[str, Any], dict[str, int]]]:
    for picture in queried:
        image = f"damaged/{picture.id}.jpg"
        yield {"_id": f"damaged-{picture.id}", "image": image, "task": DAMAGED}, {picture.id: 1}


def _variants(
    queried: Iterable[Picture], searched: Iterable[Picture]
) -> Iterable[tuple[dict[str, Any], dict[str, int]]]:
    by_concept = defaultdict(list)
    for picture in searched:
        by_concept[picture.concept].append(picture.id)
    for picture in queried:
        relevant = {id_: 1 for id_ in by_concept[picture.concept] if id_ != picture.id}
        if relevant:
            query = {
                "_id": f"variants-{picture.id}",
                "image": f"images/{picture.id}.webp",
                "instruction": SAME_THING,
                "task": VARIANTS,
                "exclude": [picture.id],
            }
            yield query, relevant


def _fused(
    searched: Sequence[Picture], rng: random.Random
) -> Iterable[tuple[dict[str, Any], dict[str, int]]]:
    possible = captions.changes(searched)
    for change in rng.sample(possible, min(FUSED_SAMPLE, len(possible))):
        source, target = searched[change.source].id, searched[change.target].id
        for language in FUSED_LANGUAGES:
            query = {
                "_id": f"fused-{language}-{source}-{target}",
                "text": captions.SAME_BUT[language][0].format(change.words[language]),
                "image": f"images/{source}.webp",
                "task": FUSED,
                "language": language,
                "exclude": [source],
            }
            yield query, {target: 1}


def _write_damaged(
    folder: Path, ids: Sequence[str], rendered: Mapping[str, NDArray[np.uint8]], seed: int
) -> None:
    """Writes one damaged view of each picture, as JPEG."""
    generator = torch.Generator().manual_seed(seed)
    stacked = premultiplied(np.stack([rendered[id_] for id_ in ids]), DAMAGED_SIZE)
    damaged = augment(stacked, (DAMAGED_SIZE, DAMAGED_SIZE), generator, clean_share=0)
    for id_, pixels in zip(ids, damaged, strict=True):
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        picture.save(folder / "damaged" / f"{id_}.jpg", quality=80)


def _write_lines(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    lines = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in objects)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _write_qrels(path: Path, qrels: Judgments) -> None:
    rows = [
        f"{query}\t{item}\t{score}\n"
        for query, relevant in qrels.items()
        for item, score in relevant.items()
    ]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(rows), "utf-8")
