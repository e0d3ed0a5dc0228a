"""Preprocessing: pictures per second and core, time per step, and its effect on vectors.

    python -m benchmarks.encoder.preprocess [--quick] [--save]

It measures the CPU time of one thread on one core: photographs as JPEG of quality 90 are decoded,
resized where the model needs another size, and cut into patch rows. `scaled` compares
`LENSEMBLE_JPEG=scaled` with full decoding, for photographs of 12 megapixels. Cosines are between
vectors in fp32 of a model with random weights: to those of Transformers' own processor
(`reference`), and to those of full decoding (`scaled`).
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common.photos import PHOTOS, encoded, read_photo
from benchmarks.common.random_checkpoint import random_serving_checkpoint
from benchmarks.common.results import print_and_save
from benchmarks.common.transformers_reference import TransformersReference
from lensemble.encoder.vector_cache.caching_encoder import features_hash
from lensemble.pipeline import Pipeline
from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from lensemble.preprocess.patches import cut_patches, resize, smart_resize
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble.settings import Settings
from lensemble_client import Item

SIZES = {"1024x768": (1024, 768), "1000x750 (resized)": (1000, 750)}
LARGE = (4032, 3024)

Figures = dict[str, Any]


def photographs(size: tuple[int, int], count: int) -> list[bytes]:
    """Returns photographs as JPEG files of one size."""
    names = list(PHOTOS)[:count]
    pictures = (Image.open(io.BytesIO(read_photo(name))).convert("RGB") for name in names)
    return [encoded(picture.resize(size)) for picture in pictures]


def cpu_ms(function: Callable[[Any], object], inputs: Sequence[Any], rounds: int) -> float:
    """Returns the milliseconds of CPU time per input, median over all calls."""
    seconds = []
    for _ in range(rounds):
        for value in inputs:
            began = time.process_time()
            function(value)
            seconds.append(time.process_time() - began)
    return round(statistics.median(seconds) * 1000, 2)


def speed(pipeline: Pipeline, count: int, rounds: int) -> Figures:
    """Measures the CPU time of preprocessing and of its steps."""
    profile, preprocess = pipeline.checkpoint.profile.image, pipeline.preprocess
    results: Figures = {}
    for name, size in SIZES.items():
        files = photographs(size, count)
        decoded = [decode_rgb(open_picture(file)) for file in files]
        target = smart_resize(size[1], size[0], profile)
        resized = [resize(rgb, *target) for rgb in decoded]
        features = [preprocess(Item(images=(file,))) for file in files]
        results[name] = {
            "all_ms": cpu_ms(lambda file: preprocess(Item(images=(file,))), files, rounds),
            "decode_ms": cpu_ms(lambda file: decode_rgb(open_picture(file)), files, rounds),
            "resize_ms": cpu_ms(functools.partial(_resize, target), decoded, rounds),
            "rows_ms": cpu_ms(lambda pixels: cut_patches(pixels, profile), resized, rounds),
            "hash_ms": cpu_ms(features_hash, features, rounds),
        }
        results[name]["pictures_per_s"] = round(1000 / results[name]["all_ms"], 1)
    large = photographs(LARGE, count // 2)
    scaled = Preprocessor(pipeline.checkpoint, scaled=True)
    results["12 megapixels"] = {
        "full_ms": cpu_ms(lambda file: preprocess(Item(images=(file,))), large, rounds),
        "scaled_ms": cpu_ms(lambda file: scaled(Item(images=(file,))), large, rounds),
        "min_cosine_scaled": smallest_cosine(
            embedded(pipeline, [preprocess(Item(images=(file,))) for file in large[:2]]),
            embedded(pipeline, [scaled(Item(images=(file,))) for file in large[:2]]),
        ),
    }
    return results


def _resize(size: tuple[int, int], rgb: Image.Image) -> object:
    return resize(rgb, *size)


def embedded(pipeline: Pipeline, features: Sequence[Any]) -> NDArray[np.float32]:
    """Returns the vectors of features, (N, D) float32."""
    return np.stack([np.asarray(vector) for vector in pipeline.encoder.encode(features)])


def smallest_cosine(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Returns the smallest cosine between rows of unit vectors (N, D)."""
    return round(float((vectors * others).sum(axis=1).min()), 7)


def cosine_to_reference(pipeline: Pipeline, reference: TransformersReference) -> float:
    """Returns the smallest cosine to the vectors that Transformers' own processor leads to."""
    files = [*photographs((1000, 750), 2), *photographs((517, 388), 6)]
    ours = np.stack([np.asarray(v) for v in pipeline.embed([Item(images=(f,)) for f in files])])
    theirs = [
        reference.embed(reference.inputs(None, Image.open(io.BytesIO(file)).convert("RGB")))[0]
        for file in files
    ]
    return smallest_cosine(ours, np.stack(theirs))


def main() -> None:
    """Prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pictures and rounds")
    parser.add_argument("--save", action="store_true", help="write results/preprocess.json")
    options = parser.parse_args()
    count, rounds = (8, 3) if options.quick else (20, 5)
    checkpoint = random_serving_checkpoint()
    pipeline = Pipeline(Settings(checkpoint=checkpoint, dtype="fp32"))
    cosine = cosine_to_reference(pipeline, TransformersReference(checkpoint))
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        results = speed(pipeline, count, rounds)
    finally:
        os.sched_setaffinity(0, cores)
    results["min_cosine_reference"] = cosine
    results["pictures_per_s_per_core_preprocess"] = results["1024x768"]["pictures_per_s"]
    for name, figures in results.items():
        print(f"{name:36} {figures}")
    print_and_save("preprocess", {"pictures": count, "rounds": rounds}, results, options.save)


if __name__ == "__main__":
    main()
