"""Items for the users: made before the clock starts, in a file that every worker reads.

    python -m benchmarks.load.users.item_file SCENARIO FILE

This runs in a process of its own, because making a checkpoint imports torch, and Locust's processes
must not do that.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from benchmarks.load.scenario import Scenario, load_scenario
from lensemble_client import Item

# Name under which the file lists the items that are stored before the clock starts.
INDEX = "index"
_INDEX_SEED = 1


def write_items(scenario: Scenario, file: Path) -> Path:
    """Makes the items, and the workload's checkpoint if it is missing.

    Args:
        scenario: Scenario, which names the mixes and the number of items.
        file: File to write, with one line of JSON per item.

    Returns:
        Folder of the checkpoint.
    """
    from benchmarks.common.workloads import WORKLOADS

    workload = WORKLOADS[scenario.workload]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lines:
        for mix in sorted({action.mix for action in scenario.actions}):
            for item in workload.items(mix, scenario.items):
                lines.write(_line(mix, item))
        for item in workload.items("mixed", scenario.index_items, _INDEX_SEED):
            lines.write(_line(INDEX, item))
    return workload.checkpoint()


def read_items(file: Path) -> dict[str, list[Item]]:
    """Returns mix -> its items, in the order in which they were made."""
    items: dict[str, list[Item]] = {}
    with file.open() as lines:
        for line in lines:
            mix, text, images = json.loads(line)
            item = Item(text, tuple(base64.b64decode(image) for image in images))
            items.setdefault(mix, []).append(item)
    return items


def _line(mix: str, item: Item) -> str:
    images = [base64.b64encode(image).decode() for image in item.images]
    return json.dumps([mix, item.text, images], ensure_ascii=False) + "\n"


def kind_of(item: Item) -> str:
    """Returns `text`, `picture` or `fused`."""
    if item.images:
        return "fused" if item.text else "picture"
    return "text"


def size_of(item: Item) -> int:
    """Returns the number of bytes of an item's text and pictures."""
    return len((item.text or "").encode()) + sum(map(len, item.images))


class ItemCycle:
    """An endless sequence of the items of one mix that one worker sends.

    Args:
        items: All items of the mix.
        worker: Number of this worker; no other worker sends its items.
        workers: Number of workers.
    """

    def __init__(self, items: list[Item], worker: int = 0, workers: int = 1) -> None:
        self._endless: Iterator[Item] = cycle(items[worker::workers] or items)

    def take(self, count: int) -> list[Item]:
        """Returns the next items; none is repeated before all of this worker's were taken."""
        return [next(self._endless) for _ in range(count)]


if __name__ == "__main__":
    print(write_items(load_scenario(sys.argv[1]), Path(sys.argv[2])))
