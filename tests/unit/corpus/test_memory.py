"""Memory of a process that embeds a large corpus."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from lensemble_corpus import embedding_run
from tests.embedded_corpus import EmbeddedCorpus

ROWS, DIMENSION = 10_000, 1000


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Memory does not hold all 10,000 rows or vectors (40 MB each), only the places of vectors."""
    # It is measured in a new process, because pytest's own may grow for other reasons.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        assert process.submit(grown_bytes, tmp_path).result() < 20e6


def grown_bytes(folder):
    """Embeds a corpus, and returns by how much the memory of this process grew, in bytes."""
    embedding_run._BLOCK_ROWS = 256
    corpus = EmbeddedCorpus(folder)
    corpus.path = folder / "rows.jsonl"
    filling = "x" * 4000
    with corpus.path.open("w") as file:
        file.writelines(f'{{"id": {n}, "filling": "{filling}"}}\n' for n in range(ROWS))
    vector = np.full(DIMENSION, DIMENSION**-0.5, np.float32)
    peak = anonymous_bytes()

    def infer(model, rows, parameters, timeout_s):
        nonlocal peak
        peak = max(peak, anonymous_bytes())
        count = len(rows["text"])
        times = [tensor.name for tensor in model.outputs if "_ms" in tensor.name]
        return {
            "embedding": np.tile(vector, (count, 1)),
            "profile": np.full((count, 1), b"p", np.object_),
            "tokens": np.ones((count, 1), np.int32),
            **{name: np.ones((count, 1)) for name in times},
        }

    corpus.transport.infer = infer
    before = anonymous_bytes()
    summary = corpus.run("{id}", concurrency=4)
    grown = max(peak, anonymous_bytes()) - before
    assert (summary.count, summary.sent) == (ROWS, ROWS)
    assert np.load(corpus.out / "embeddings.npy", mmap_mode="r").shape == (ROWS, DIMENSION)
    return grown


def anonymous_bytes():
    """Memory of this process apart from mapped files, in bytes."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().split("\n") if "RssAnon" in line
    )
    return int(line.split()[1]) * 1024
