"""The calls that a server offers: the request and the answer of each, for any protocol.

`Client.run` and `AsyncClient.run` send them.
"""

from lensemble_client.calls.call import Call, json_text, measured, without_none
from lensemble_client.calls.health import ping, processes_of, proves_alive
from lensemble_client.calls.search import (
    SearchOptions,
    embed,
    embedder_model,
    more_like,
    search,
    search_vector,
)
from lensemble_client.calls.store import (
    change_document,
    count,
    delete,
    get,
    ingest,
    list_page,
    sequence_if_unchanged,
    stats,
    upsert,
)

__all__ = [
    "Call",
    "SearchOptions",
    "change_document",
    "count",
    "delete",
    "embed",
    "embedder_model",
    "get",
    "ingest",
    "json_text",
    "list_page",
    "measured",
    "more_like",
    "ping",
    "processes_of",
    "proves_alive",
    "search",
    "search_vector",
    "sequence_if_unchanged",
    "stats",
    "upsert",
    "without_none",
]
