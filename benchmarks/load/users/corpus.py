"""Items for the users, made before the clock starts, in a file that every worker reads.

    python -m benchmarks.load.users.corpus SCENARIO FILE

A process of its own, because making a checkpoint imports torch and Locust's processes must not.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from benchmarks.load.scenario import Scenario, load
from lensemble_client import Item

INDEX = "index"
"""Mix under which the file has what is stored before the clock starts."""
_INDEX_SEED = 1


def write(scenario: Scenario, file: Path) -> Path:
    """Makes the items, and the workload's checkpoint if it is missing.

    Args:
        scenario: Says which mixes, and how many items.
        file: One line of JSON per item.

    Returns:
        Folder of the checkpoint.
    """
    from benchmarks.common.workload import WORKLOADS

    workload = WORKLOADS[scenario.workload]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lines:
        for mix in sorted({action.mix for action in scenario.actions}):
            for item in workload.items(mix, scenario.items):
                lines.write(_line(mix, item))
        for item in workload.items("mixed", scenario.index_items, _INDEX_SEED):
            lines.write(_line(INDEX, item))
    return workload.checkpoint()


def read(file: Path) -> dict[str, list[Item]]:
    """Mix -> its items, in the order in which they were made."""
    found: dict[str, list[Item]] = {}
    with file.open() as lines:
        for line in lines:
            mix, text, images = json.loads(line)
            item = Item(text, tuple(base64.b64decode(image) for image in images))
            found.setdefault(mix, []).append(item)
    return found


def _line(mix: str, item: Item) -> str:
    images = [base64.b64encode(image).decode() for image in item.images]
    return json.dumps([mix, item.text, images], ensure_ascii=False) + "\n"


def kind_of(item: Item) -> str:
    """`text`, `picture` or `fused`."""
    if item.images:
        return "fused" if item.text else "picture"
    return "text"


def size_of(item: Item) -> int:
    """Bytes of its text and pictures."""
    return len((item.text or "").encode()) + sum(map(len, item.images))


class Source:
    """The items of a mix that one worker sends, without an end.

    Args:
        items: Of the mix.
        worker: Which this is; its items are no other worker's.
        workers: How many there are.
    """

    def __init__(self, items: list[Item], worker: int = 0, workers: int = 1) -> None:
        self._endless: Iterator[Item] = cycle(items[worker::workers] or items)

    def take(self, count: int) -> list[Item]:
        """The next ones; none comes again before all of this worker's were taken."""
        return [next(self._endless) for _ in range(count)]


if __name__ == "__main__":
    print(write(load(sys.argv[1]), Path(sys.argv[2])))
