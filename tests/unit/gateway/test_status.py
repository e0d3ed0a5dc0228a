"""`/health`, `/v1/models` and `/metrics`, and the embedders that Triton's metrics name."""

import asyncio

import pytest

from lensemble.gateway.access import keys
from lensemble.gateway.served_models import ServedModel, parse_metrics
from lensemble_contract.errors import NotReadyError
from tests.gateway import FakeTriton, gateway

METRICS = """\
# HELP lensemble_model_info What the model is.
# TYPE lensemble_model_info gauge
lensemble_model_info{triton_model="qwen3_vl",model="owner/name",device="cuda"} 1
lensemble_model_info{triton_model="preprocess",model="owner/name"} 1
# TYPE other gauge
other{triton_model="qwen3_vl"} 1
"""


def get(path, triton=None):
    async def send():
        async with gateway(triton) as http:
            return await http.get(path)

    return asyncio.run(send())


def test_health_follows_triton():
    triton = FakeTriton()
    assert get("/health", triton).json()["model_loaded"] is True
    triton.error = NotReadyError("x")
    response = get("/health", triton)
    assert response.status_code == 503
    assert response.json()["model_loaded"] is False


def test_embedders_are_read_from_tritons_metrics():
    assert parse_metrics(METRICS) == [
        ServedModel("native", {"model": "owner/name", "device": "cuda"})
    ]
    assert parse_metrics("") == []


@pytest.mark.parametrize("text", ["<html>", "{", "name{"])
def test_text_that_is_no_metrics_is_refused(text):
    with pytest.raises(ValueError):
        parse_metrics(text)


@pytest.mark.parametrize("name", ["native", "owner/name", "name"])
def test_model_is_known_by_its_names(name):
    model = ServedModel("native", {"model": "owner/name"})
    assert model.has_name(name)
    assert not model.has_name("owner")


def test_models_are_empty_while_the_metrics_are_unreachable():
    assert get("/v1/models").json() == {"object": "list", "data": []}


def test_metrics_count_requests_items_and_refusals(tmp_path):
    key = keys.add(tmp_path / "keys.json", "me", "read")

    async def send():
        async with gateway(keys=tmp_path / "keys.json") as http:
            await http.get("/v1/models")
            http.headers["Authorization"] = f"Bearer {key}"
            await http.post("/v1/embeddings", json={"input": ["ab", "bad"], "partial": True})
            return (await http.get("/metrics")).text

    text = asyncio.run(send())
    for line in (
        'lensemble_gateway_requests_total{route="/v1/embeddings",status="200"} 1.0',
        'lensemble_gateway_refused_total{reason="invalid_api_key"} 1.0',
        'lensemble_gateway_items_total{route="/v1/embeddings"} 2.0',
        'lensemble_gateway_items_failed_total{route="/v1/embeddings"} 1.0',
        "lensemble_gateway_tokens_total 2.0",
        "lensemble_gateway_in_flight 1.0",
    ):
        assert line in text
