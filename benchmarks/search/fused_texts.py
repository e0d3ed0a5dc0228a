"""Which queries find more if a label is embedded together with each picture, and which find less.

    python -m benchmarks.search.fused_texts [--save]

The corpus is the demo's held-out pictures: once alone, once each with the name of its concept as
its text, which pictures of the same concept share (`lensemble corpus embed --text '{concept}'`).
The queries are every picture itself, the damaged pictures, and the names in six languages.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.results import print_and_save
from demo.demo import CHECKPOINT, DATASET
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_client import Item, LensembleError
from lensemble_evaluation.dataset import load_dataset

_SPLIT = "held_out"
_CHUNK = 128


def embed(pipeline: Pipeline, items: Iterable[Item]) -> NDArray[np.float32]:
    """Returns the vectors of items, (N, D) float32."""
    vectors, waiting = [], list(items)
    for start in range(0, len(waiting), _CHUNK):
        for result in pipeline.embed(waiting[start : start + _CHUNK]):
            if isinstance(result, LensembleError):
                raise result
            vectors.append(result)
    return np.stack(vectors)


def found_first(
    queries: NDArray[np.float32], corpus: NDArray[np.float32], relevant: list[set[int]]
) -> float:
    """Returns the share of queries whose first hit is relevant.

    Args:
        queries: (Q, D) vectors.
        corpus: (N, D) vectors.
        relevant: For each query the positions of its relevant items.
    """
    best = (queries @ corpus.T).argmax(axis=1).tolist()
    return float(np.mean([hit in wanted for hit, wanted in zip(best, relevant, strict=True)]))


def measure() -> dict[str, dict[str, float]]:
    """Returns for each corpus the share of each kind of query that finds the right item first."""
    dataset = load_dataset(DATASET, _SPLIT)
    pipeline = Pipeline(Settings(checkpoint=CHECKPOINT))
    position = {entry.id: number for number, entry in enumerate(dataset.corpus)}
    pictures = [Item(images=entry.item().images) for entry in dataset.corpus]
    labelled = [
        Item(str(entry.document["concept"]), images=item.images)
        for entry, item in zip(dataset.corpus, pictures, strict=True)
    ]
    damaged = [query for query in dataset.queries if query.id.startswith("damaged-")]
    names = [query for query in dataset.queries if not query.images]
    queries = {
        "the picture itself": (pictures, [{number} for number in range(len(pictures))]),
        **{
            label: (
                [query.item() for query in chosen],
                [{position[id_] for id_ in dataset.qrels[query.id]} for query in chosen],
            )
            for label, chosen in (("a damaged picture", damaged), ("a name", names))
        },
    }
    vectors = {label: embed(pipeline, items) for label, (items, _) in queries.items()}
    return {
        name: {
            label: found_first(vectors[label], corpus, relevant)
            for label, (_, relevant) in queries.items()
        }
        for name, corpus in (
            ("picture alone", vectors["the picture itself"]),
            ("picture and label", embed(pipeline, labelled)),
        )
    }


def main() -> None:
    """Prints a table and the closing line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    results = measure()
    for corpus, shares in results.items():
        for query, share in shares.items():
            print(f"{corpus:18} {query:20} {share:.3f}")
    print_and_save("fused_texts", {"split": _SPLIT}, results, args.save)


if __name__ == "__main__":
    main()
