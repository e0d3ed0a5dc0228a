"""A gRPC client finds a server that was restarted, however long the server was away."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensemble_client import NotReadyError
from lensemble_client.transports.async_transports import AsyncGrpcTransport
from lensemble_client.transports.sync_transports import GrpcTransport
from tests.waiting import DEADLINE_S, until


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="triton", version="0")


def start_server(port):
    """Starts a server on a port, or on a free one if it is 0; returns the server and the port."""
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def test_restarted_server_is_found():
    server, port = start_server(0)
    transport = GrpcTransport(f"127.0.0.1:{port}")
    assert transport.version(DEADLINE_S) == "triton 0"
    server.stop(0).wait()
    with pytest.raises(NotReadyError):
        transport.version(DEADLINE_S)
    server, _ = start_server(port)
    try:
        until(lambda: version_if_ready(transport) == "triton 0", "an answer of the new server")
    finally:
        transport.close()
        server.stop(0).wait()


def version_if_ready(transport):
    """The version of the server, or None if no server answers."""
    try:
        return transport.version(DEADLINE_S)
    except NotReadyError:
        return None


def record_longest_waits(monkeypatch, module):
    """The list to which each channel that a module opens adds its longest wait in milliseconds.

    It is the wait between two attempts to connect.
    """
    waits_ms = []
    open_channel = module.insecure_channel

    def opened(address, options):
        waits_ms.append(dict(options)["grpc.max_reconnect_backoff_ms"])
        return open_channel(address, options)

    monkeypatch.setattr(module, "insecure_channel", opened)
    return waits_ms


def test_channels_try_to_reconnect_every_second(monkeypatch):
    """By default the waits between two attempts grow to two minutes."""
    waits_ms = record_longest_waits(monkeypatch, grpc)
    GrpcTransport("127.0.0.1:9").close()
    assert waits_ms == [1000]


def test_channels_for_asyncio_try_to_reconnect_every_second(monkeypatch):
    waits_ms = record_longest_waits(monkeypatch, grpc.aio)

    async def ask():
        transport = AsyncGrpcTransport("127.0.0.1:9")
        with pytest.raises(NotReadyError):
            await transport.version(DEADLINE_S)
        await transport.close()

    asyncio.run(ask())
    assert waits_ms == [1000]
