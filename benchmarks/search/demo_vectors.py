"""The demo's vectors for search benchmarks: all its pictures, asked for by their names."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.data import DEMO, Corpus, Data
from demo.demo import CHECKPOINT, DATASET
from lensemble.index.snapshots.ground_truth import GroundTruth
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_client import LensembleError
from lensemble_corpus.entries import Entry
from lensemble_evaluation.dataset import load_dataset

_PART = 256


def demo(queries: int) -> Data:
    """Embeds pictures and names, and searches exactly.

    Args:
        queries: How many names, drawn of all.
    """
    dataset = load_dataset(DATASET, "all")
    pipeline = Pipeline(Settings(checkpoint=CHECKPOINT))
    vectors = _embed(pipeline, dataset.corpus)
    names = [entry for entry in dataset.queries if not entry.item().images]
    drawn = np.random.default_rng(0).permutation(len(names))[:queries]
    asked = _embed(pipeline, [names[n] for n in drawn])
    return Data(
        Corpus(DEMO, len(vectors), vectors.shape[1], 0),
        vectors,
        GroundTruth.compute(vectors, asked),
    )


def _embed(pipeline: Pipeline, entries: list[Entry]) -> NDArray[np.float32]:
    """(N, D) float32."""
    print(f"{DEMO}: embedding {len(entries)} items", file=sys.stderr)
    found = []
    for start in range(0, len(entries), _PART):
        part = entries[start : start + _PART]
        for result in pipeline.embed([entry.item() for entry in part]):
            if isinstance(result, LensembleError):
                raise result
            found.append(result)
    return np.stack(found)
