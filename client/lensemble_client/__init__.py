"""Client of a Lensemble server.

Typical use:

    from lensemble_client import Client

    with Client("grpc://127.0.0.1:8001") as client:
        vector = client.embed(image="bumper.jpg")
        hits = client.search("parachoques abollado", top_k=5)

`AsyncClient` has the same calls for asyncio. `testing` has a server in memory for tests.
"""

from lensemble_client.async_client import AsyncClient
from lensemble_client.client import Client
from lensemble_client.embedder import Qwen3VLEmbedder
from lensemble_client.quantization import quantize
from lensemble_client.results import Embedding, Hit, Hits, ItemPage, ListedItem, Status, Stored
from lensemble_client.retry import Retry
from lensemble_client.transports.async_transports import (
    AsyncGrpcTransport,
    AsyncHttpTransport,
    AsyncTransport,
)
from lensemble_client.transports.sync_transports import GrpcTransport, HttpTransport, Transport
from lensemble_contract.errors import (
    CancelledError,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    LensembleError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    ReadOnlyError,
    StorageError,
)
from lensemble_contract.items import Item, Picture, Record

__all__ = [
    "AsyncClient",
    "AsyncGrpcTransport",
    "AsyncHttpTransport",
    "AsyncTransport",
    "CancelledError",
    "Client",
    "DeadlineExceededError",
    "Embedding",
    "GrpcTransport",
    "Hit",
    "Hits",
    "HttpTransport",
    "InternalError",
    "InvalidInputError",
    "Item",
    "ItemPage",
    "LensembleError",
    "ListedItem",
    "NotFoundError",
    "NotReadyError",
    "OverloadedError",
    "Picture",
    "Qwen3VLEmbedder",
    "ReadOnlyError",
    "Record",
    "Retry",
    "Status",
    "StorageError",
    "Stored",
    "Transport",
    "quantize",
]
