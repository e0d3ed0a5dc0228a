"""The peers do the same work as Lensemble: their vectors of the demo's items are its own."""

import numpy as np
import pytest

from benchmarks.common.workload import WORKLOADS
from benchmarks.peers import naive, sentence_transformers_server
from benchmarks.peers.load import vectors
from benchmarks.peers.peer import serving
from benchmarks.peers.report import least_cosine
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


@pytest.mark.parametrize("peer", [naive.peer(), sentence_transformers_server.peer()])
def test_vectors_are_ours(peer, items, ours):
    with serving(peer, DEMO.checkpoint()) as url:
        found = vectors(peer.protocol, url, items)
    assert least_cosine(found, ours) >= 0.9999
