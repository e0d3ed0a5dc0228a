"""Embeds many items with asyncio, and writes the vectors to a .npy file, one row for each item.

    lensemble up --checkpoint demo/checkpoint

    python examples/embed_many.py items.jsonl vectors.npy

A line of items.jsonl is one item with text, picture or both, such as
{"text": "a red car", "image": "car.webp"}; pictures are files in the same folder. If an item fails,
its error is printed and its row is NaN.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lensemble_client import AsyncClient, Item, LensembleError


def items(lines: list[str], folder: Path, errors: dict[int, LensembleError]) -> Iterator[Item]:
    """Yields the items; the errors of those that cannot be read go into `errors`."""
    for row, fields in enumerate(map(json.loads, lines)):
        try:
            picture = folder / fields["image"] if "image" in fields else None
            yield Item.of(fields.get("text"), picture)
        except LensembleError as error:
            errors[row] = error


async def main(source: Path, target: Path, url: str) -> None:
    """Embeds the items of one file into another."""
    lines, errors = source.read_text().splitlines(), dict[int, LensembleError]()
    async with AsyncClient(url) as client:
        embedded = iter(await client.embed_many(items(lines, source.parent, errors)))
    results = [errors[row] if row in errors else next(embedded) for row in range(len(lines))]
    length = max((len(result) for result in results if isinstance(result, np.ndarray)), default=0)
    table = np.full((len(lines), length), np.nan, np.float32)
    for row, result in enumerate(results):
        if isinstance(result, LensembleError):
            print(f"item {row}: {type(result).__name__}: {result}")
        else:
            table[row] = result
    np.save(target, table)
    print(f"{len(lines)} items, {length} dimensions -> {target}")


parser = argparse.ArgumentParser(description="Embed many items into a .npy file.")
parser.add_argument("source", type=Path, help="one JSON object per line")
parser.add_argument("target", type=Path, help=".npy file to write")
parser.add_argument("--url", default="grpc://127.0.0.1:8001")
arguments = parser.parse_args()
asyncio.run(main(arguments.source, arguments.target, arguments.url))
