"""Processes to be killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.harness import Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Where workers are forked; ends with all of them."""
    made = Nursery()
    try:
        yield made
    finally:
        made.close()
