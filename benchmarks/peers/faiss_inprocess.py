"""FAISS called in this process against the served `faiss` model: the cost of the service.

Both sides search the same 100,000 random unit vectors of the demo's dimension exactly: vectors in,
ids out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.common.timing import ratio, time_in_turn
from benchmarks.search.served_index import search_request
from lensemble.index.maintenance.create import write_index
from lensemble.index.storage.index_plan import IndexPlan
from lensemble.operations.tritonserver import TritonServer
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble_client import Client
from lensemble_contract import contract

CHECKPOINT = Path("demo/checkpoint")
COUNT = 100_000
BATCHES = (1, 32)
K = 10
_CALLS = 20

Vectors = NDArray[np.float32]


def unit_vectors(rng: np.random.Generator, count: int, dimension: int) -> Vectors:
    """Draws random unit vectors (count, dimension) float32."""
    vectors = rng.standard_normal((count, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def compare(rounds: int, count: int = COUNT) -> dict[str, Any]:
    """Starts a server with the vectors, then calls it and FAISS by turns, one call after another.

    Args:
        rounds: Number of rounds, of `_CALLS` calls each.
        count: Number of vectors.

    Returns:
        For each batch size: `b<size>_served_over_inprocess` (ratio of queries per second) with its
        spread, the milliseconds of a call on both sides, and the share of ids that agree.
    """
    rng = np.random.default_rng(0)
    profile = Profile.load(CHECKPOINT)
    vectors = unit_vectors(rng, count, profile.dimension)
    index = faiss.IndexFlatIP(profile.dimension)
    index.add(vectors)
    results: dict[str, Any] = {"vectors": count, "dimension": profile.dimension}
    print(f"\nfaiss: {count:,} x {profile.dimension}, exact, one caller")
    print(f"{'batch':>5}{'served ms':>11}{'in process ms':>15}{'ratio':>7}{'least-most':>14}")
    with tempfile.TemporaryDirectory() as folder:
        ids = [str(n) for n in range(count)]
        write_index(
            Path(folder) / "index",
            profile,
            vectors,
            ids,
            ["{}"] * count,
            plan=IndexPlan(kind="exact"),
        )
        settings = Settings(checkpoint=CHECKPOINT, index=Path(folder) / "index")
        with TritonServer(settings) as server, Client(server.grpc_url) as client:
            for batch in BATCHES:
                queries = [unit_vectors(rng, batch, profile.dimension) for _ in range(_CALLS)]
                results |= _compare_batch(client, index, queries, rounds)
    return results


def _compare_batch(
    client: Client, index: Any, queries: list[Vectors], rounds: int
) -> dict[str, Any]:
    batch = len(queries[0])
    seconds = time_in_turn(
        {
            "served": lambda: [search_request(client, part) for part in queries],
            "in_process": lambda: [index.search(part, K) for part in queries],
        },
        rounds,
    )
    name = f"b{batch}_served_over_inprocess"
    figures: dict[str, Any] = ratio(name, seconds["in_process"], seconds["served"])
    ms = {side: float(np.median(s)) / len(queries) * 1000 for side, s in seconds.items()}
    served_ids = search_request(client, queries[0])[contract.IDS.name].astype(np.int64)
    same = float((served_ids == index.search(queries[0], K)[1]).mean())
    spread = "{:.2f}-{:.2f}".format(*figures[f"{name}_spread"])
    print(f"{batch:5}{ms['served']:11.2f}{ms['in_process']:15.2f}{figures[name]:7.2f}{spread:>14}")
    return figures | {
        f"b{batch}_served_ms": round(ms["served"], 2),
        f"b{batch}_inprocess_ms": round(ms["in_process"], 2),
        f"b{batch}_same_ids": round(same, 4),
    }
