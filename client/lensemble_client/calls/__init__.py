"""The calls that a server offers: request and answer of each, independent of the protocol.

`Client.run` and `AsyncClient.run` send them.
"""

from lensemble_client.calls.call import Call, json_text, measured, without_none
from lensemble_client.calls.health import is_answer, ping, processes_of
from lensemble_client.calls.search import (
    SearchOptions,
    embed,
    embedder_model,
    more_like,
    search,
    search_vector,
)
from lensemble_client.calls.store import (
    delete,
    get,
    ingest,
    sequence_if_unchanged,
    stats,
    upsert,
)
from lensemble_client.results import Embedding, Hit, Measured, Stored

__all__ = [
    "Call",
    "Embedding",
    "Hit",
    "Measured",
    "SearchOptions",
    "Stored",
    "delete",
    "embed",
    "embedder_model",
    "get",
    "ingest",
    "is_answer",
    "json_text",
    "measured",
    "more_like",
    "ping",
    "processes_of",
    "search",
    "search_vector",
    "sequence_if_unchanged",
    "stats",
    "upsert",
    "without_none",
]
