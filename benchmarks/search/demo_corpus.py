"""The demo's corpus for search benchmarks: all its pictures, with their names as queries."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.corpora import DEMO, CorpusWithQueries, VectorCorpus
from demo.demo import CHECKPOINT, DATASET
from lensemble.index.snapshots.ground_truth import GroundTruth
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_client import LensembleError
from lensemble_corpus.entries import Entry
from lensemble_evaluation.dataset import load_dataset

_CHUNK = 256


def demo_corpus(queries: int) -> CorpusWithQueries:
    """Embeds pictures and names, and searches exactly.

    Args:
        queries: Number of names, which are drawn at random.
    """
    dataset = load_dataset(DATASET, "all")
    pipeline = Pipeline(Settings(checkpoint=CHECKPOINT))
    vectors = _embed(pipeline, dataset.corpus)
    names = [entry for entry in dataset.queries if not entry.item().images]
    drawn = np.random.default_rng(0).permutation(len(names))[:queries]
    query_vectors = _embed(pipeline, [names[n] for n in drawn])
    return CorpusWithQueries(
        VectorCorpus(DEMO, len(vectors), vectors.shape[1], 0),
        vectors,
        GroundTruth.compute(vectors, query_vectors),
    )


def _embed(pipeline: Pipeline, entries: list[Entry]) -> NDArray[np.float32]:
    """Returns the vectors of entries, (N, D) float32."""
    print(f"{DEMO}: embedding {len(entries)} items", file=sys.stderr)
    embedded = []
    for start in range(0, len(entries), _CHUNK):
        chunk = entries[start : start + _CHUNK]
        for result in pipeline.embed([entry.item() for entry in chunk]):
            if isinstance(result, LensembleError):
                raise result
            embedded.append(result)
    return np.stack(embedded)
