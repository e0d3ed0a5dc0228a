"""TLS and mutual TLS of Triton and of the gateway, with a certificate authority of our own."""

import asyncio

import httpx
import numpy as np
import pytest
import trustme

from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import AsyncClient, Client, LensembleError, Retry
from lensemble_contract.tls import Tls
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e

ONCE = Retry(tries=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name -> folder of certificates.

    `own` has the authority's certificate and one that it signed. `trusting` has only that of the
    authority. `foreign` has it too, and a certificate that another authority signed. `stranger` has
    only the certificate of the other authority.
    """
    authority, other = trustme.CA(), trustme.CA()
    folders = {}
    for name, signed_by, trusted in (
        ("own", authority, authority),
        ("trusting", None, authority),
        ("foreign", other, authority),
    ):
        folder = folders[name] = tmp_path_factory.mktemp(name)
        trusted.cert_pem.write_to_path(folder / "ca.crt")
        if signed_by is not None:
            certificate = signed_by.issue_cert("127.0.0.1")
            certificate.cert_chain_pems[0].write_to_path(folder / "tls.crt")
            certificate.private_key_pem.write_to_path(folder / "tls.key")
    stranger = folders["stranger"] = tmp_path_factory.mktemp("stranger")
    other.cert_pem.write_to_path(stranger / "ca.crt")
    return folders


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mutual"])
def server(request, checkpoint, folders):
    settings = Settings(checkpoint=checkpoint, dtype="fp32")
    with TritonServer(settings, tls=folders["own"], mutual=request.param) as running:
        running.mutual = request.param
        yield running


def assert_refused(url, tls):
    with Client(url, tls=tls, timeout_s=5, retry=ONCE) as client:
        with pytest.raises(LensembleError):
            client.embed("x")


def embed(url, tls):
    with Client(url, tls=tls) as client:
        return client.embed("x")


def test_server_serves_clients_with_the_right_certificates_only(server, folders):
    assert server.grpc_url.startswith("grpcs://127.0.0.1:")
    with Client(server.grpc_url, tls=folders["own"]) as client:
        vector = client.embed("x")
        assert client.health()
    assert_refused(server.grpc_url, folders["stranger"])  # does not trust the server's authority
    assert_refused(server.grpc_url.replace("grpcs", "grpc"), None)
    for name in ("trusting", "foreign"):
        if server.mutual:
            assert_refused(server.grpc_url, folders[name])
        else:
            np.testing.assert_allclose(embed(server.grpc_url, folders[name]), vector, atol=1e-5)


def test_asyncio_client_and_loopback_http_work_with_tls(server, folders):
    vector = embed(server.grpc_url, folders["own"])

    async def embed_async():
        async with AsyncClient(server.grpc_url, tls=folders["own"]) as client:
            return await client.embed("x")

    np.testing.assert_array_equal(asyncio.run(embed_async()), vector)
    # HTTP stays on loopback, without TLS.
    np.testing.assert_allclose(embed(server.http_url, None), vector, atol=1e-5)


def test_gateway_serves_clients_with_the_right_certificates_only(server, folders):
    settings = GatewaySettings(
        triton=server.grpc_url,
        triton_tls=folders["own"],
        metrics=server.metrics_url,
        port=0,
        tls=folders["own"],
        mutual=server.mutual,
    )
    own, trusting = (
        Tls.from_folder(folders[name]).client_context() for name in ("own", "trusting")
    )
    with GatewayServer(settings) as gateway:
        assert gateway.url.startswith("https://127.0.0.1:")
        body = {"input": "x"}
        response = httpx.post(
            f"{gateway.url}/v1/embeddings", json=body, verify=own, timeout=DEADLINE_S
        )
        assert response.status_code == 200
        if server.mutual:
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{gateway.url}/health", verify=trusting, timeout=DEADLINE_S)
        else:
            assert (
                httpx.get(f"{gateway.url}/health", verify=trusting, timeout=DEADLINE_S).status_code
                == 200
            )
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{gateway.url}/health", verify=True, timeout=DEADLINE_S)
