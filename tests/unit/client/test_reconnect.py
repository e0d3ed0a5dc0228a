"""A server that comes back is found soon, however long it was away."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensemble.operations.tritonserver import free_port
from lensemble_client import NotReadyError
from lensemble_client.transports.sync_transports import GrpcTransport

AWAY_S = 12
"""By itself, gRPC would then look again some 4 s later, and ever more seldom."""


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ServerMetadata(self, request, context):
        return service_pb2.ServerMetadataResponse(name="triton", version="0")


def test_server_that_was_away_is_found_within_seconds():
    port = free_port()
    transport = GrpcTransport(f"127.0.0.1:{port}")
    end = time.monotonic() + AWAY_S
    while time.monotonic() < end:
        with pytest.raises(NotReadyError):
            transport.version(1)
        time.sleep(0.2)
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        time.sleep(2.5)  # twice the longest wait
        assert transport.version(1) == "triton 0"
    finally:
        transport.close()
        server.stop(0)
