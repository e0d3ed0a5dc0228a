"""Client of a Lensemble server.

Typical use:

    from lensemble_client import Client

    with Client("grpc://127.0.0.1:8001") as client:
        vector = client.embed(image="bumper.jpg")
        hits = client.search("parachoques abollado", top_k=5)
"""

from lensemble_client.client import Client, Embedding, Hit, Status, Stored
from lensemble_client.errors import (
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
from lensemble_client.items import Item, Picture, Record
from lensemble_client.transport import GrpcTransport, HttpTransport, Transport

__all__ = [
    "CancelledError",
    "Client",
    "DeadlineExceededError",
    "Embedding",
    "GrpcTransport",
    "Hit",
    "HttpTransport",
    "InternalError",
    "InvalidInputError",
    "Item",
    "LensembleError",
    "NotFoundError",
    "NotReadyError",
    "OverloadedError",
    "Picture",
    "ReadOnlyError",
    "Record",
    "Status",
    "StorageError",
    "Stored",
    "Transport",
]
