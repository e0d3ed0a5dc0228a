"""A fake server in memory, without Triton or a model, for the tests of code that uses a client.

    from lensemble_client.testing import FakeServer, fake_client

    server = FakeServer()
    client = fake_client(server)
    client.ingest("1", "a red car", document={"year": 2015})
    assert client.search("a red car", top_k=1)[0].id == "1"
    # The next request fails, and the client tries again.
    server.failures.append(OverloadedError("busy"))

The clients are the real ones, so they check input, put items into requests and try again as usual.
The server has an index with exact search, filters and writes. Only its vectors have no meaning:
equal items have equal vectors, and two different items have a score near 0. To change that, pass a
function of your own as `FakeServer(embed=...)`. Pictures are not decoded, so bytes that the real
server refuses are accepted.
"""

from lensemble_client.testing.server import FakeServer
from lensemble_client.testing.transports import (
    AsyncFakeTransport,
    FakeTransport,
    fake_async_client,
    fake_client,
)
from lensemble_client.testing.vectors import vector_of

__all__ = [
    "AsyncFakeTransport",
    "FakeServer",
    "FakeTransport",
    "fake_async_client",
    "fake_client",
    "vector_of",
]
