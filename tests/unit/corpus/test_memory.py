"""Memory of a process that embeds a large corpus."""

from pathlib import Path

import numpy as np

from lensemble_corpus import embedding_run
from tests.embedded_corpus import EmbeddedCorpus


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    """Memory does not hold all 10,000 rows or vectors (40 MB each), only the places of vectors."""
    monkeypatch.setattr(embedding_run, "_BLOCK_ROWS", 256)
    corpus = EmbeddedCorpus(tmp_path)
    corpus.path = tmp_path / "rows.jsonl"
    filling = "x" * 4000
    with corpus.path.open("w") as file:
        file.writelines(f'{{"id": {n}, "filling": "{filling}"}}\n' for n in range(10_000))
    vector = np.full(1000, 1000**-0.5, np.float32)
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
    assert (summary.count, summary.sent) == (10_000, 10_000)
    assert max(peak, anonymous_bytes()) - before < 20e6
    assert np.load(corpus.out / "embeddings.npy", mmap_mode="r").shape == (10_000, 1000)


def anonymous_bytes():
    """Memory of this process apart from mapped files, in bytes."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().split("\n") if "RssAnon" in line
    )
    return int(line.split()[1]) * 1024
