"""`make demo`: photographs into an index, then queries through a real Triton server.

Everything is made on the spot in `.cache/demo`: a small Qwen3-VL with random weights, a serving
checkpoint of it, and an index of the photographs in `photos.py`. The queries are changed copies of
the photographs (re-encoded, resized, cropped, brightened); `recall_at_1` is the share whose nearest
neighbour is the original. Random weights see looks and know no words, so the text query below shows
only that text takes the same way. A cell is the score of the original, or `->` and what was nearer.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from transformers.utils import logging as transformers_logging

from benchmarks.photos import CHANGES, PHOTOS, changed_copies, read_photo, write_photos
from lensemble.config import Settings
from lensemble.server import TritonServer, stop_on_signals
from lensemble_client import Client
from lensemble_export.convert import convert
from lensemble_export.index import build_index
from lensemble_export.random_checkpoint import write_random_checkpoint

FOLDER = Path(".cache/demo")


def demo_checkpoint(folder: Path = FOLDER) -> Path:
    """Path of the demo's serving checkpoint; made if it is missing."""
    serving = folder / "checkpoint"
    if not (serving / "profile.json").is_file():
        print("checkpoint: a small Qwen3-VL with random weights", file=sys.stderr)
        for stale in (folder / "random", serving):
            shutil.rmtree(stale, ignore_errors=True)
        write_random_checkpoint(folder / "random")
        convert(str(folder / "random"), serving)
    return serving


def main() -> None:
    """Runs the demo and prints a table, then one JSON line."""
    began = time.monotonic()
    transformers_logging.disable_progress_bar()  # of loading weights, which takes no time here
    checkpoint = demo_checkpoint()
    shutil.rmtree(FOLDER / "pictures", ignore_errors=True)
    write_photos(FOLDER / "pictures")
    settings = Settings(checkpoint=checkpoint, index=FOLDER / "index")
    print(f"index: {len(PHOTOS)} photographs", file=sys.stderr)
    build_index(
        FOLDER / "pictures", FOLDER / "index", Settings(checkpoint=checkpoint), progress=True
    )
    print("server: starting tritonserver", file=sys.stderr)
    found: dict[str, list[bool]] = {change: [] for change in CHANGES}
    with TritonServer(settings) as server, Client(server.grpc_url) as client:
        version = client.status().server
        print(f"\n{version}, one gRPC call per query\n")
        print(f"{'photograph':24}{''.join(f'{change:>14}' for change in CHANGES)}")
        for name in PHOTOS:
            cells = []
            for change, copy in changed_copies(read_photo(name)).items():
                (hit,) = client.search(image=copy, top_k=1)
                found[change].append(hit.id == name)
                cells.append(f"{hit.score:.4f}" if hit.id == name else f"-> {hit.id[:10]}")
            print(f"{name:24}{''.join(f'{cell:>14}' for cell in cells)}")
        query = changed_copies(read_photo("coffee.png"))["cropped"]
        for title, hits in (
            ("a picture query: coffee.png, cropped", client.search(image=query, top_k=3)),
            ("a text query: 'a cup of coffee'", client.search("a cup of coffee", top_k=3)),
        ):
            print(f"\n{title}")
            for hit in hits:
                print(f"  {hit.score:.4f}  {hit.id:24}{hit.document['description']}")
    right = sum(sum(hits) for hits in found.values())
    queries = sum(len(hits) for hits in found.values())
    summary = {
        "pictures": len(PHOTOS),
        "queries": queries,
        "recall_at_1": round(right / queries, 4),
        "triton": version.split()[-1],
        "seconds": round(time.monotonic() - began, 1),
    }
    print(f"\n{json.dumps(summary, separators=(',', ':'))}")


if __name__ == "__main__":
    with stop_on_signals():
        main()
