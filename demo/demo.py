"""`make demo`: puts emoji into an index, then searches it with words and pictures through Triton.

Checkpoint and pictures come with the repository. Each query is one gRPC call to a real Triton
server; `demo/contact_sheet.py` draws the answers. The figures are those of `lensemble eval`:
through `search` on a sample of all pictures, and through `embed` on pictures that the model has
never seen.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from demo.contact_sheet import Answer, contact_sheet
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, LensembleError
from lensemble_evaluation.dataset import load_dataset
from lensemble_evaluation.evaluate import Evaluation, evaluate
from lensemble_export.index_from_corpus import build_index

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "demo" / "checkpoint"
DATASET = ROOT / "demo" / "dataset"
FOLDER = Path(".cache/demo")

TEXT, PICTURE = "text to picture", "picture to picture"
# Text, picture and instruction of each query: words in two languages, a damaged picture, a picture
# with words, and a picture that means all pictures of its concept because of the instruction.
QUERIES: tuple[tuple[str | None, str | None, str | None], ...] = (
    ("red heart", None, None),
    ("corazón rojo", None, None),
    ("perro", None, None),
    (None, "damaged/1f347.jpg", None),
    ("the same, but with dark skin", "images/1f44b.webp", None),
    (None, "images/1f44b.webp", "Find pictures of the same thing."),
)


def main() -> None:
    """Runs the demo and prints answers, then one line of JSON."""
    began = time.monotonic()
    index = FOLDER / "index"
    build_index(DATASET, index, Settings(checkpoint=CHECKPOINT), replace=True, progress=True)
    print("server: starting tritonserver", file=sys.stderr)
    with (
        TritonServer(Settings(checkpoint=CHECKPOINT, index=index)) as server,
        Client(server.grpc_url) as client,
    ):
        version = client.status().server
        print(f"\n{version}, one gRPC call per query\n")
        answers = [_answer(client, *query) for query in QUERIES]
        sheet = contact_sheet(answers, FOLDER / "answers.png")
        print(f"\nthe same in pictures: {sheet}")
        everything = load_dataset(DATASET, "all")
        evaluation = evaluate(client, everything, through="search", progress=True)
        held_out = evaluate(client, load_dataset(DATASET, "held_out"), progress=True)
    summary = {
        "pictures": evaluation.corpus,
        "queries": len(everything.queries),
        "recall_at_1": round(evaluation.row(PICTURE).metrics["recall@1"], 4),
        "picture_recall_at_10": round(evaluation.row(PICTURE).metrics["recall@10"], 4),
        "text_recall_at_10": _by_language(evaluation),
        "held_out_text_recall_at_10": _by_language(held_out),
        "triton": version.split()[-1],
        "seconds": round(time.monotonic() - began, 1),
    }
    print(f"\n{json.dumps(summary, separators=(',', ':'))}")


def _answer(client: Client, text: str | None, image: str | None, instruction: str | None) -> Answer:
    """Searches, prints the three nearest hits, and returns the answer for the contact sheet."""
    picture = DATASET / image if image else None
    hits = client.search(text, picture, top_k=8, instruction=instruction)
    title = " + ".join([repr(text)] * bool(text) + [str(image)] * bool(image))
    print(f"{instruction!r} {title}" if instruction else title)
    for hit in hits[:3]:
        print(f"  {hit.score:.4f}  {hit.document['emoji']}  {hit.document['en']}")
    return Answer(
        text or instruction or "", picture, [(DATASET / h.document["image"], h.score) for h in hits]
    )


def _by_language(evaluation: Evaluation) -> dict[str, float]:
    return {
        row.language: round(row.metrics["recall@10"], 4)
        for row in evaluation.rows
        if row.task == TEXT and row.language != "all"
    }


if __name__ == "__main__":
    with stop_on_signals():
        try:
            main()
        except LensembleError as error:
            sys.exit(f"error: {error}")
