"""TLS and mutual TLS, from `TritonServer` and the gateway to the client, with a real authority."""

import asyncio

import httpx
import pytest
import trustme

from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import AsyncClient, Client, LensembleError, Retry
from lensemble_contract.tls import Tls

pytestmark = pytest.mark.e2e

ONCE = Retry(tries=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`own`: authority, certificate and key; `trusting`: the authority; `foreign`: another's."""
    authority, other = trustme.CA(), trustme.CA()
    made = {}
    for name, signed_by, trusted in (
        ("own", authority, authority),
        ("trusting", None, authority),
        ("foreign", other, authority),
    ):
        folder = made[name] = tmp_path_factory.mktemp(name)
        trusted.cert_pem.write_to_path(folder / "ca.crt")
        if signed_by is not None:
            certificate = signed_by.issue_cert("127.0.0.1")
            certificate.cert_chain_pems[0].write_to_path(folder / "tls.crt")
            certificate.private_key_pem.write_to_path(folder / "tls.key")
    stranger = made["stranger"] = tmp_path_factory.mktemp("stranger")
    other.cert_pem.write_to_path(stranger / "ca.crt")
    return made


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mutual"])
def server(request, checkpoint, folders):
    settings = Settings(checkpoint=checkpoint, dtype="fp32")
    with TritonServer(settings, tls=folders["own"], mutual=request.param) as running:
        running.mutual = request.param
        yield running


def refused(url, tls):
    with Client(url, tls=tls, timeout_s=5, retry=ONCE) as client:
        with pytest.raises(LensembleError) as caught:
            client.embed("x")
    return caught.value


def test_who_may_call_the_server(server, folders):
    assert server.grpc_url.startswith("grpcs://127.0.0.1:")
    with Client(server.grpc_url, tls=folders["own"]) as client:
        vector = client.embed("x")
        assert client.health()

    async def ask():
        async with AsyncClient(server.grpc_url, tls=folders["own"]) as client:
            return await client.embed("x")

    assert (asyncio.run(ask()) == vector).all()
    with Client(server.http_url) as client:  # on loopback, without TLS
        assert client.embed("x").shape == vector.shape
    refused(server.grpc_url, folders["stranger"])  # its authority did not sign the server's
    refused(server.grpc_url.replace("grpcs", "grpc"), None)
    for name in ("trusting", "foreign"):
        if server.mutual:
            refused(server.grpc_url, folders[name])
        else:
            with Client(server.grpc_url, tls=folders[name]) as client:
                assert client.embed("x").shape == vector.shape


def test_who_may_call_the_gateway(server, folders):
    settings = GatewaySettings(
        triton=server.grpc_url,
        triton_tls=folders["own"],
        metrics=server.metrics_url,
        port=0,
        tls=folders["own"],
        mutual=server.mutual,
    )
    own, trusting = (Tls.of(folders[name]).for_client() for name in ("own", "trusting"))
    with GatewayServer(settings) as gateway:
        assert gateway.url.startswith("https://127.0.0.1:")
        body = {"input": "x"}
        answer = httpx.post(f"{gateway.url}/v1/embeddings", json=body, verify=own)
        assert answer.status_code == 200
        if server.mutual:
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{gateway.url}/health", verify=trusting)
        else:
            assert httpx.get(f"{gateway.url}/health", verify=trusting).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{gateway.url}/health", verify=True)
