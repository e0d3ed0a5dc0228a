"""Search with a real server: pictures find themselves."""

import base64
import json
import urllib.request

import numpy as np
import pytest

from benchmarks.common.photos import PHOTOS, changed_copies, read_photo
from lensemble_client import InvalidInputError, Item
from lensemble_client.transports.sync_transports import GrpcTransport
from lensemble_contract import contract
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("name", ["coffee.png", "china.jpg", "rocket.jpg"])
def test_photograph_finds_itself(client, name):
    hits = client.search(image=read_photo(name), top_k=3)
    assert (hits[0].id, hits[0].score) == (name, pytest.approx(1, abs=1e-4))
    assert hits[0].document == {"file": name, "description": PHOTOS[name]}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_changed_copy_finds_its_original(client):
    copies = changed_copies(read_photo("coffee.png"))
    assert {client.search(image=copy, top_k=1)[0].id for copy in copies.values()} == {"coffee.png"}


def test_scores_are_inner_products(client, pipeline):
    hits = client.search("a question", top_k=len(PHOTOS))
    (query,) = pipeline.embed([Item("a question")])
    for hit in hits[:5]:
        (vector,) = pipeline.embed([Item(images=(read_photo(hit.id),))])
        assert hit.score == pytest.approx(float(query @ vector), abs=1e-5)


def test_default_and_largest_top_k(client):
    assert len(client.search("x")) == 10
    assert len(client.search("x", top_k=1000)) == len(PHOTOS)


@pytest.mark.parametrize("top_k", [0, -1, 1001])
def test_top_k_outside_its_limits_is_refused(client, top_k):
    with pytest.raises(InvalidInputError, match=f"top_k: {top_k}; expected 1 to 1000"):
        client.search("x", top_k=top_k)


def test_vectors_can_be_searched_directly(server, client):
    vector = client.embed(image=read_photo("moon.png"))
    transport = GrpcTransport(server.grpc_url.split("//")[1])
    rows = transport.infer(contract.FAISS, {"embedding": vector[None]}, {"top_k": 1}, DEADLINE_S)
    assert rows["ids"].tolist() == [[b"moon.png"]]
    for bad in (vector[None, :64], np.full((1, 256), np.nan, np.float32)):
        with pytest.raises(InvalidInputError, match="embedding"):
            transport.infer(contract.FAISS, {"embedding": bad}, {}, DEADLINE_S)
    transport.close()


def test_plain_http_with_json(server):
    """As the README shows it with curl: a text, and a picture as a data URL."""
    url = base64.b64encode(read_photo("coffee.png")).decode()
    for name, value in (("text", "a red car"), ("image", f"data:image/png;base64,{url}")):
        body = {
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [value]}],
            "outputs": [{"name": "ids"}, {"name": "scores"}],
            "parameters": {"top_k": 2},
        }
        request = urllib.request.Request(
            f"{server.http_url}/v2/models/search/infer",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            outputs = {o["name"]: o["data"] for o in json.load(answer)["outputs"]}
        assert len(outputs["ids"]) == 2
    assert outputs["ids"][0] == "coffee.png"
