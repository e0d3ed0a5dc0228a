"""Command line: `lensemble COMMAND`; `lensemble --help` lists the commands.

`cli_up`, `cli_watch`, `cli_index`, `cli_corpus`, `cli_compare` and `cli_gateway` have commands of
their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lensemble_cli import gateway
from lensemble_cli.compare import add_command as add_compare_command
from lensemble_cli.compare import check_outputs
from lensemble_cli.corpus import add_commands as add_corpus_commands
from lensemble_cli.index import add_commands as add_index_commands
from lensemble_cli.options import add_server, condition, print_hits
from lensemble_cli.status import add_commands as add_watch_commands
from lensemble_cli.up import add_commands as add_up_commands
from lensemble_client.client import Client
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, LensembleError
from lensemble_contract.items import Record
from lensemble_corpus.entries import find_entries


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 if it succeeded, 1 if it failed (the reason is on standard error), 130 after Ctrl-C.
    """
    given = _parser().parse_args(arguments)
    try:
        status: int = given.run(given)
    except LensembleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lensemble", description="Qwen3-VL embeddings and FAISS search on Triton."
    )
    parser.add_argument("--version", action="version", version=f"lensemble {version('lensemble')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_up_commands(commands)

    embed = commands.add_parser("embed", help="print the vector of a text, pictures, or both")
    _add_item(embed)
    embed.add_argument("--dimensions", type=int, help="Matryoshka length; full if left out")
    embed.add_argument("--embedder", choices=contract.EMBEDDERS, default=contract.NATIVE)
    embed.set_defaults(run=_embed)

    search = commands.add_parser("search", help="print the nearest items of the corpus")
    _add_item(search)
    search.add_argument("--dimensions", type=int, help="only if the index has that length")
    search.add_argument("-k", "--top-k", type=int, default=contract.DEFAULT_TOP_K)
    search.add_argument("--filter", help='condition as JSON, such as \'{"year": {"$gte": 2015}}\'')
    search.add_argument("--exclude", action="append", default=[], metavar="ID", help="leave out")
    search.add_argument("--min-score", type=float, help="only items with this score or more")
    search.add_argument("--like", metavar="ID", help="neighbours of a stored item")
    search.add_argument("--json", action="store_true", help="one JSON object per hit")
    search.set_defaults(run=_search)

    evaluate = commands.add_parser(
        "eval",
        help="measure how well the server finds what a dataset says is relevant",
        description="docs/evaluation.md says how a dataset is laid out.",
    )
    evaluate.add_argument("dataset", type=Path, help="folder in BEIR's layout, with pictures")
    evaluate.add_argument("--split", help="file in qrels/ (default: test, or the only one)")
    evaluate.add_argument(
        "--through",
        choices=("embed", "search"),
        default="embed",
        help="embed: rank here, exactly; search: let the server's index rank",
    )
    evaluate.add_argument("--embedder", choices=contract.EMBEDDERS, default=contract.NATIVE)
    evaluate.add_argument("--dimensions", help="Matryoshka lengths, such as 64,128,2048")
    evaluate.add_argument("--concurrency", type=int, default=16, help="calls under way at a time")
    evaluate.add_argument("--baseline", type=Path, help="JSON of an earlier run to compare with")
    evaluate.add_argument("--json", type=Path, help="file to write the figures to")
    evaluate.add_argument("--plots", type=Path, help="folder to write plots to")
    add_server(evaluate)
    evaluate.set_defaults(run=_evaluate)

    ingest = commands.add_parser(
        "ingest",
        help="embed a corpus or pictures and store them through a running server",
        description="After a break, run it again: what is stored already is not sent again.",
    )
    ingest.add_argument("source", type=Path, help="as for `index build`")
    ingest.add_argument("--concurrency", type=int, default=16, help="calls under way at a time")
    ingest.add_argument("--again", action="store_true", help="send what is stored already, too")
    add_server(ingest)
    ingest.set_defaults(run=_ingest)

    get = commands.add_parser("get", help="print a stored item's document")
    get.add_argument("id")
    get.add_argument("--vector", action="store_true", help="and its vector")
    add_server(get)
    get.set_defaults(run=_get)

    delete = commands.add_parser("delete", help="remove stored items")
    delete.add_argument("ids", nargs="+", metavar="ID")
    add_server(delete)
    delete.set_defaults(run=_delete)

    add_compare_command(commands)
    add_corpus_commands(commands)
    add_index_commands(commands)
    add_watch_commands(commands)
    gateway.add_commands(commands)
    return parser


def _add_item(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="?", help="text of the item")
    parser.add_argument("--image", action="append", help="picture file; may be given again")
    parser.add_argument("--instruction", help="replaces the profile's instruction")
    add_server(parser)


def _embed(given: argparse.Namespace) -> int:
    with Client(given.url, tls=given.tls, timeout_s=given.timeout) as client:
        vector = client.embed(
            given.text,
            given.image,
            instruction=given.instruction,
            dimensions=given.dimensions,
            embedder=given.embedder,
        )
    print(json.dumps(vector.tolist()))
    return 0


def _search(given: argparse.Namespace) -> int:
    asked = {
        "top_k": given.top_k,
        "filter": condition(given.filter),
        "exclude": given.exclude,
        "min_score": given.min_score,
    }
    with Client(given.url, tls=given.tls, timeout_s=given.timeout) as client:
        if given.like:
            if given.text or given.image:
                raise InvalidInputError("there is a text or a picture, too", field="like")
            hits = client.more_like(given.like, **asked)
        else:
            hits = client.search(
                given.text,
                given.image,
                instruction=given.instruction,
                dimensions=given.dimensions,
                **asked,
            )
    print_hits(((hit.id, hit.score, hit.document) for hit in hits), as_json=given.json)
    return 0


def _ingest(given: argparse.Namespace) -> int:
    entries = find_entries(given.source)
    failed: dict[str, LensembleError] = {}
    sent: list[str] = []

    def records() -> Iterator[Record]:
        for entry in entries:
            try:
                record = entry.record()
            except LensembleError as error:
                failed[entry.id] = error
                continue
            sent.append(entry.id)
            yield record

    with Client(given.url, tls=given.tls, timeout_s=given.timeout) as client:
        results = client.ingest_many(
            records(), resume=not given.again, concurrency=given.concurrency, progress=True
        )
    failed |= {
        id_: result
        for id_, result in zip(sent, results, strict=True)
        if isinstance(result, LensembleError)
    }
    print(f"{len(entries) - len(failed)} of {len(entries)} items stored")
    for id_, error in failed.items():
        print(f"error: {id_!a}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _get(given: argparse.Namespace) -> int:
    with Client(given.url, tls=given.tls, timeout_s=given.timeout) as client:
        stored = client.get(given.id)
    said: dict[str, Any] = {"id": stored.id, "document": stored.document}
    if given.vector:
        said["vector"] = stored.embedding.tolist()
    print(json.dumps({**said, "sequence": stored.sequence}, ensure_ascii=False))
    return 0


def _delete(given: argparse.Namespace) -> int:
    with Client(given.url, tls=given.tls, timeout_s=given.timeout) as client:
        removed = sum(map(bool, client.delete(given.ids)))
    print(f"{removed} of {len(given.ids)} items removed")
    return 0


def _evaluate(given: argparse.Namespace) -> int:
    from lensemble_evaluation import report
    from lensemble_evaluation.dataset import load_dataset
    from lensemble_evaluation.evaluate import evaluate

    dimensions = _lengths(given.dimensions)
    if dimensions and given.through == "search":
        raise InvalidInputError("an index has one length; leave it out", field="dimensions")
    dataset = load_dataset(given.dataset, given.split)
    baseline = report.load(given.baseline) if given.baseline else None
    if baseline is not None:
        report.check_baseline(baseline, dataset.name, dataset.split)
    check_outputs(given.json, given.plots)
    with Client(given.url, tls=given.tls, timeout_s=given.timeout) as client:
        evaluation = evaluate(
            client,
            dataset,
            through=given.through,
            dimensions=dimensions,
            embedder=given.embedder,
            concurrency=given.concurrency,
            progress=True,
        )
    print(report.table(evaluation, baseline))
    if given.json:
        report.save(evaluation, given.json)
    if given.plots:
        from lensemble_evaluation.plots import plot

        print(*plot(evaluation, given.plots), sep="\n")
    return 0


def _lengths(given: str | None) -> list[int]:
    try:
        lengths = [int(length) for length in given.split(",")] if given else []
        if any(length < 1 for length in lengths):
            raise ValueError
    except ValueError as error:
        raise InvalidInputError(
            f"{given!r}; expected whole numbers above 0 with commas between, such as 64,128",
            field="dimensions",
        ) from error
    return lengths


if __name__ == "__main__":
    sys.exit(main())
