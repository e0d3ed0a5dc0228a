"""Plain FAISS in this process against the served `faiss` model: what the service costs.

Vectors in, ids out; 100,000 random unit vectors of the demo's length, searched exactly: both
sides do the same work.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.common.measure import in_turn, ratio
from benchmarks.search.served import ask
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


def unit(rng: np.random.Generator, count: int, dimension: int) -> Vectors:
    """Random unit vectors (count, dimension)."""
    vectors = rng.standard_normal((count, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def compare(rounds: int, count: int = COUNT) -> dict[str, Any]:
    """Starts a server with the vectors, and asks it and FAISS by turns, one call after another.

    Args:
        rounds: Of `_CALLS` calls each.
        count: Of vectors.

    Returns:
        For each batch size: `b<size>_served_over_inprocess`, queries per second over queries per
        second, with its spread, and the milliseconds of a call on both sides; and whether the
        two found the same (share of ids).
    """
    rng = np.random.default_rng(0)
    profile = Profile.load(CHECKPOINT)
    vectors = unit(rng, count, profile.dimension)
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
                queries = [unit(rng, batch, profile.dimension) for _ in range(_CALLS)]
                results |= _batch(client, index, queries, rounds)
    return results


def _batch(client: Client, index: Any, queries: list[Vectors], rounds: int) -> dict[str, Any]:
    batch = len(queries[0])
    seconds = in_turn(
        {
            "served": lambda: [ask(client, part) for part in queries],
            "in_process": lambda: [index.search(part, K) for part in queries],
        },
        rounds,
    )
    name = f"b{batch}_served_over_inprocess"
    found: dict[str, Any] = ratio(name, seconds["in_process"], seconds["served"])
    ms = {side: float(np.median(of)) / len(queries) * 1000 for side, of in seconds.items()}
    theirs = ask(client, queries[0])[contract.IDS.name].astype(np.int64)
    same = float((theirs == index.search(queries[0], K)[1]).mean())
    spread = "{:.2f}-{:.2f}".format(*found[f"{name}_spread"])
    print(f"{batch:5}{ms['served']:11.2f}{ms['in_process']:15.2f}{found[name]:7.2f}{spread:>14}")
    return found | {
        f"b{batch}_served_ms": round(ms["served"], 2),
        f"b{batch}_inprocess_ms": round(ms["in_process"], 2),
        f"b{batch}_same_ids": round(same, 4),
    }
