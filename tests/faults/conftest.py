"""The process that forks workers, and indexes with known contents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.harness import ForkServer
from tests.faults.known_index import KINDS, KnownIndex, make_known_index


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    """Forks workers; all of them end with the module."""
    server = ForkServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def known_indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KnownIndex]:
    """One index of each kind, shared by all tests, which damage only copies."""
    return {kind: make_known_index(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(params=list(KINDS))
def known(known_indexes: dict[str, KnownIndex], request: pytest.FixtureRequest) -> KnownIndex:
    """An index of each kind."""
    return known_indexes[request.param]


@pytest.fixture
def exact(known_indexes: dict[str, KnownIndex]) -> KnownIndex:
    """An index of the kind `exact`."""
    return known_indexes["exact"]
