"""Embeds many items with asyncio; the vectors go into a .npy file, a row for each item.

    lensemble up --checkpoint demo/checkpoint

    python examples/embed_many.py items.jsonl vectors.npy

A line of items.jsonl is one item: {"text": "a red car", "image": "car.webp"}, either alone or both;
pictures are files beside it. An item that fails has NaN in its row, and its error is printed.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lensemble_client import AsyncClient, Item, LensembleError


def items(lines: list[str], folder: Path, errors: dict[int, LensembleError]) -> Iterator[Item]:
    """The items, read as their turn comes; those that cannot be read are errors."""
    for row, said in enumerate(map(json.loads, lines)):
        try:
            yield Item.of(said.get("text"), folder / said["image"] if "image" in said else None)
        except LensembleError as error:
            errors[row] = error


async def main(source: Path, target: Path, url: str) -> None:
    """Embeds the items of one file into another."""
    lines, errors = source.read_text().splitlines(), dict[int, LensembleError]()
    async with AsyncClient(url) as client:
        found = iter(await client.embed_many(items(lines, source.parent, errors)))
    results = [errors[row] if row in errors else next(found) for row in range(len(lines))]
    length = max((len(one) for one in results if isinstance(one, np.ndarray)), default=0)
    table = np.full((len(lines), length), np.nan, np.float32)
    for row, one in enumerate(results):
        if isinstance(one, LensembleError):
            print(f"item {row}: {type(one).__name__}: {one}")
        else:
            table[row] = one
    np.save(target, table)
    print(f"{len(lines)} items, {length} dimensions -> {target}")


parser = argparse.ArgumentParser(description="Embed many items into a .npy file.")
parser.add_argument("source", type=Path, help="one JSON object per line")
parser.add_argument("target", type=Path, help=".npy file to write")
parser.add_argument("--url", default="grpc://127.0.0.1:8001")
given = parser.parse_args()
asyncio.run(main(given.source, given.target, given.url))
