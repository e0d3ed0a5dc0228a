"""Callers in several processes, their items, and the use of the GPU."""

import asyncio
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks.gpu.measuring.client_process import call_until, figures, split_evenly
from benchmarks.gpu.measuring.gpu_use import mean_use
from benchmarks.gpu.measuring.item_sets import SETS, read_set, write_sets
from lensemble_client import Item, OverloadedError


def answer(latencies, failed=0, error=""):
    return {"latencies_ms": latencies, "failed": failed, "error": error}


def test_figures_are_those_of_all_processes():
    found = figures([answer([10.0] * 99), answer([30.0])], seconds=4)
    assert found["items_per_s"] == 25
    assert found["p50_ms"] == 10
    assert 10 < found["p99_ms"] <= 30


def test_call_that_failed_is_an_error_and_no_fast_answer():
    with pytest.raises(RuntimeError, match="1 calls failed, 1 succeeded: too much"):
        figures([answer([10.0]), answer([], 1, "too much")], seconds=4)
    with pytest.raises(RuntimeError, match="0 calls failed, 0 succeeded"):
        figures([answer([])], seconds=4)


@pytest.mark.parametrize(("count", "shares"), [(64, [32, 32]), (1, [1, 0]), (5, [3, 2])])
def test_callers_are_divided_among_the_processes(count, shares):
    assert split_evenly(count, 2) == shares


class FakeClient:
    def __init__(self, error=None, calls=100):
        self.sent, self.error, self.calls = [], error, calls

    async def embed(self, text, images):
        await asyncio.sleep(0)
        self.sent.append(text)
        if self.error:
            raise self.error
        return np.zeros(4, np.float32)


def order(callers):
    now = time.monotonic()
    return {"callers": callers, "begin": now, "end": now + 0.05}


def test_two_processes_send_different_items():
    items = [Item(str(n)) for n in range(1000)]
    clients = [FakeClient(), FakeClient()]
    for number, client in enumerate(clients):
        asyncio.run(call_until(client, items, number, 2, order(3)))
    even, odd = ({int(text) % 2 for text in client.sent} for client in clients)
    assert (even, odd) == ({0}, {1})


def test_caller_whose_call_fails_stops_and_says_why():
    client = FakeClient(OverloadedError("too much"))
    found = asyncio.run(call_until(client, [Item("a")], 0, 1, order(2)))
    assert (found["failed"], found["latencies_ms"]) == (2, [])
    assert "too much" in found["error"]


def test_items_are_different_and_come_back_as_written(tmp_path):
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "one.jpg")
    write_sets(tmp_path / "photos", tmp_path / "items", 8)
    sets = {name: read_set(tmp_path / "items" / name) for name in SETS}
    for items in sets.values():
        assert len({(item.text, item.images) for item in items}) == 8
    assert all(item.images and not item.text for item in sets["448x448"])
    assert all(item.text and not item.images for item in sets["text"])
    assert {bool(item.images) for item in sets["mixed"]} == {True, False}


def test_bundle_without_photographs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no photographs"):
        write_sets(tmp_path, tmp_path / "items", 8)


def test_use_of_the_gpu_is_the_mean_of_readable_lines():
    lines = ["50, 300.5, 1980\n", "100, 500.5, 1980\n", "[N/A], 1, 2\n", "7\n"]
    assert mean_use(lines) == {"gpu_use": 75.0, "power_w": 400.5, "clock_mhz": 1980.0}
    assert mean_use([]) == {}
