"""Stores a folder of pictures, then searches it by words and by picture.

It needs a server that accepts writes (the index is created if it is missing):

    lensemble up --checkpoint demo/checkpoint --index data/photos --writes

    python examples/search_photos.py demo/dataset/damaged --words "red heart"

After an interruption, run it again: pictures that are already stored are not sent again.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from lensemble_client import Client, Item, LensembleError, Record

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

parser = argparse.ArgumentParser(description="Store a folder of pictures and search it.")
parser.add_argument("folder", type=Path)
parser.add_argument("--words", default="red heart", help="what to search for")
parser.add_argument("--like", type=Path, help="picture to search for (default: the first one)")
parser.add_argument("-k", "--top-k", type=int, default=3)
parser.add_argument("--url", default="grpc://127.0.0.1:8001")
arguments = parser.parse_args()

paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
readable: list[Path] = []


def records() -> Iterator[Record]:
    """Yields the pictures, each read when it is needed."""
    for path in paths:
        try:
            item = Item.of(image=path)
        except LensembleError as error:  # an empty file, or one that cannot be read
            print(f"error: {path.name}: {error}")
            continue
        readable.append(path)
        yield Record(path.relative_to(arguments.folder).as_posix(), item, {"file": path.name})


with Client(arguments.url) as client:
    results = dict(zip(readable, client.ingest_many(records()), strict=True))
    stored = [path for path, result in results.items() if isinstance(result, int)]
    for path in results.keys() - stored:
        print(f"error: {path.name}: {results[path]}")
    print(f"{len(stored)} of {len(paths)} pictures stored")
    for query in (arguments.words, *([arguments.like] if arguments.like else stored[:1])):
        words, picture = (query, None) if isinstance(query, str) else (None, query)
        print(query if words else query.name)
        for hit in client.search(words, picture, top_k=arguments.top_k):
            print(f"  {hit.score:.4f}  {hit.id}")
