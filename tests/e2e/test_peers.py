"""The peers do the same work as Lensemble: they give the same vectors for the demo's items."""

import numpy as np
import pytest

from benchmarks.common.workloads import WORKLOADS
from benchmarks.peers import naive_server, sentence_transformers_server
from benchmarks.peers.comparison import smallest_cosine
from benchmarks.peers.load_generator import fetch_vectors
from benchmarks.peers.peer import running_peer
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings

pytestmark = pytest.mark.e2e

DEMO = WORKLOADS["demo"]


@pytest.fixture(scope="module")
def items():
    texts, pictures, both = (DEMO.items(mix, 1) for mix in ("text", "picture", "fused"))
    return [*texts, *pictures, *both]


@pytest.fixture(scope="module")
def ours(items):
    return np.stack(Pipeline(Settings(checkpoint=DEMO.checkpoint(), dtype="fp32")).embed(items))


@pytest.mark.parametrize("peer", [naive_server.peer(), sentence_transformers_server.peer()])
def test_vectors_of_a_peer_are_ours(peer, items, ours):
    with running_peer(peer, DEMO.checkpoint()) as url:
        vectors = fetch_vectors(peer.protocol, url, items)
    assert smallest_cosine(vectors, ours) >= 0.9999
