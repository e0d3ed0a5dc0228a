"""The gateway in front of the real Triton, with the clients that others have written for OpenAI."""

import base64
import concurrent.futures
import json
import re
import signal
import subprocess
import sys
import urllib.request

import httpx
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, Item
from lensemble_contract.errors import InternalError
from tests.pictures import encode, textured

pytestmark = pytest.mark.e2e
PICTURE = encode(textured(80, 60))
DATA_URL = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
PARTS = [
    {"type": "text", "text": "a dent"},
    {"type": "image_url", "image_url": {"url": DATA_URL}},
]


@pytest.fixture(scope="module")
def triton(checkpoint, tmp_path_factory):
    """The real Triton, with an index that takes writes."""
    index = tmp_path_factory.mktemp("gateway") / "index"
    settings = Settings(checkpoint=checkpoint, index=index, dtype="fp32", writes="on")
    with TritonServer(settings) as running:
        yield running


@pytest.fixture(scope="module")
def url(triton):
    settings = GatewaySettings(triton=triton.grpc_url, metrics=triton.metrics_url, port=0)
    with GatewayServer(settings) as running:
        yield running.url


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url, timeout=60) as made:
        yield made


@pytest.fixture
def direct(triton):
    with Client(triton.grpc_url) as made:
        yield made


def test_vectors_are_those_of_the_server(http, direct):
    forms = {
        "a text": Item("parachoques"),
        "with a picture": Item("a dent", (PICTURE,)),
        "a picture": Item(images=(PICTURE,)),
        "instructed": Item("a dent", (PICTURE,), "Find it."),
    }
    sent = [
        "parachoques",
        PARTS,
        {"image": DATA_URL},
        {"content": PARTS, "instruction": "Find it."},
    ]
    answer = http.post("/v1/embeddings", json={"input": sent}).json()
    for entry, item in zip(answer["data"], forms.values(), strict=True):
        alone = direct.embed(item.text, list(item.images) or None, instruction=item.instruction)
        assert float(alone @ np.array(entry["embedding"], np.float32)) > 0.99999
    message = {"role": "user", "content": PARTS}
    system = {"role": "system", "content": "Find it."}
    turns = http.post("/v1/embeddings", json={"messages": [system, message]}).json()
    assert turns["data"][0]["embedding"] == pytest.approx(answer["data"][3]["embedding"], abs=1e-4)
    first = http.post("/qwen3/embeddings", json={"input": "a dent", "image_url": DATA_URL}).json()
    assert first["data"][0]["embedding"] == pytest.approx(answer["data"][1]["embedding"], abs=1e-4)


def test_usage_is_the_length_of_the_prompts(http, pipeline):
    items = [Item("parachoques"), Item("a dent", (PICTURE,))]
    answer = http.post("/v1/embeddings", json={"input": ["parachoques", PARTS]}).json()
    expected = sum(len(pipeline.preprocess(item).input_ids) for item in items)
    assert answer["usage"] == {"prompt_tokens": expected, "total_tokens": expected}


def test_openais_own_client_works_unchanged(url, direct):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any")
    found = client.embeddings.create(model="native", input=["uno", "dos"], dimensions=64)
    assert [entry.index for entry in found.data] == [0, 1]
    assert found.usage.prompt_tokens > 0
    # It asks for base64 itself, and gives lists of floats.
    assert float(direct.embed("dos", dimensions=64) @ np.array(found.data[1].embedding)) > 0.99999
    floats = client.embeddings.create(model="native", input="uno", encoding_format="float")
    assert len(floats.data[0].embedding) == len(direct.embed("uno"))
    assert "native" in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError, match="expected 1 to"):
        client.embeddings.create(model="native", input=[])
    with pytest.raises(openai.NotFoundError, match="native"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    client.close()


def test_langchain_works_unchanged(url, direct):
    made = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="any", model="native", check_embedding_ctx_length=False
    )
    documents = made.embed_documents(["uno", "dos", "tres"])
    assert float(direct.embed("tres") @ np.array(documents[2])) > 0.99999
    assert made.embed_query("uno") == pytest.approx(documents[0], abs=1e-4)


def test_items_go_in_are_found_and_go(http):
    sent = [
        {"id": "dent", "image": DATA_URL, "document": {"kind": "dent"}},
        {"id": "words", "text": "a red car", "document": {"kind": "text"}},
        {"id": "bad", "image": "data:image/png;base64,AAAA"},
    ]
    stored = http.post("/v1/items", json={"items": sent}).json()
    assert [bool(entry["sequence"]) for entry in stored["data"]] == [True, True, False]
    assert stored["data"][2]["error"]["param"] == "items[2].image[0]"
    form = {"id": "form", "document": json.dumps({"kind": "form"})}
    other = encode(textured(90, 70, seed=5))
    assert http.post("/v1/items", data=form, files={"image": ("x.png", other)}).status_code == 200

    hits = http.post("/v1/search", json={"input": [{"image": DATA_URL}, "a red car"]}).json()
    assert [entry["hits"][0]["id"] for entry in hits["data"]] == ["dent", "words"]
    assert hits["data"][0]["hits"][0]["score"] > 0.999
    filtered = {"input": {"image": DATA_URL}, "filter": {"kind": "form"}}
    found = http.post("/v1/search", json=filtered).json()["data"][0]["hits"]
    assert [hit["id"] for hit in found] == ["form"]
    like = http.post("/v1/search", json={"like": "dent", "top_k": 1}).json()
    assert like["data"][0]["hits"][0]["id"] in ("words", "form")
    vector = http.get("/v1/items/dent", params={"embedding": True}).json()["embedding"]
    again = http.post("/v1/search", json={"vector": vector, "top_k": 1}).json()
    assert again["data"][0]["hits"][0]["id"] == "dent"
    assert http.get("/v1/index").json()["count"] == 3
    for id_ in ("dent", "words", "form"):
        assert http.delete(f"/v1/items/{id_}").json()["deleted"]
    assert http.get("/v1/items/dent").status_code == 404


def test_health_models_and_metrics(http, checkpoint):
    health = http.get("/health")
    assert health.status_code == 200
    assert health.json() == {
        "status": "ok",
        "model_loaded": True,
        "device": "cpu",
        "gpu_name": None,
    }
    (model,) = http.get("/v1/models").json()["data"]
    profile = json.loads((checkpoint / "profile.json").read_text())
    assert (model["id"], model["profile"], model["dimension"]) == (
        "native",
        profile["hash"],
        profile["dimension"],
    )
    assert 'requests_total{route="/health",status="200"}' in http.get("/metrics").text
    assert "Lensemble" in http.get("/docs").text
    timing = http.post("/v1/search", json={"input": "a"}).headers["server-timing"]
    assert all(stage in timing for stage in ("preprocess;", "encode;", "search;", "total;"))


def test_callers_share_batches_and_get_their_own(http, url, direct):
    """32 callers at a time: each gets its own vector."""
    words = [f"{'word ' * (n % 5)}{n}" for n in range(32)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        ask = lambda text: http.post("/v1/embeddings", json={"input": text}).json()  # noqa: E731
        found = [one["data"][0]["embedding"] for one in pool.map(ask, words)]
    for text, vector in list(zip(words, found, strict=True))[::7]:
        assert float(direct.embed(text) @ np.array(vector, np.float32)) > 0.999


def test_a_gateway_outlives_its_triton_and_says_so(tmp_path):
    settings = GatewaySettings(
        triton="grpc://127.0.0.1:9", metrics="http://127.0.0.1:9/metrics", port=0, timeout_s=1
    )
    with GatewayServer(settings) as running, httpx.Client(base_url=running.url) as http:
        assert http.get("/health").status_code == 503
        answer = http.post("/v1/embeddings", json={"input": "a"}, timeout=20)
        assert answer.status_code in (503, 504)
        assert answer.json()["error"]["code"] in ("not_ready", "deadline_exceeded")


def test_bad_setting_ends_it_with_the_reason(tmp_path):
    with (tmp_path / "log").open("wb") as log, pytest.raises(InternalError, match="status 1"):
        GatewayServer(GatewaySettings(host="0.0.0.0", port=0), log).start()
    assert "LENSEMBLE_GATEWAY_HOST" in (tmp_path / "log").read_text()


def test_schema_finds_no_fault(url):
    """Schemathesis, from the gateway's own OpenAPI schema: whatever is sent, no 5xx."""
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{url}/openapi.json",
        "--checks",
        "not_a_server_error",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "20",
        "--seed",
        "1",
        "--suppress-health-check",
        "all",
        "--request-timeout",
        "30",
        "--no-color",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    ((generated, passed),) = re.findall(r"(\d+) generated, (\d+) passed", ran.stdout)
    assert generated == passed and int(passed) > 300


def test_up_starts_both_and_stops_both(checkpoint, tmp_path):
    keys = tmp_path / "keys.json"
    cli = [sys.executable, "-m", "lensemble_cli.main"]
    made = subprocess.run(
        [*cli, "keys", "add", "me", "--keys", str(keys)], capture_output=True, text=True, check=True
    )
    listed = subprocess.run(
        [*cli, "keys", "list", "--keys", str(keys)], capture_output=True, text=True, check=True
    )
    assert listed.stdout == "me  read\n"
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--gateway-port", "0"]
    ports += ["--health-port", "0"]
    up = subprocess.Popen(
        [*cli, "up", "--checkpoint", str(checkpoint), "--gateway", "--keys", str(keys), *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = [up.stdout.readline().strip() for _ in range(5)]
        url = lines[4].removeprefix("gateway: ")
        assert httpx.get(f"{url}/v1/models").status_code == 401
        bearer = {"Authorization": f"Bearer {made.stdout.strip()}"}
        body = {"input": "hello"}
        answer = httpx.post(f"{url}/v1/embeddings", json=body, headers=bearer, timeout=30)
        assert answer.status_code == 200
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
        up.stdout.close()
    for gone in (url, lines[1]):
        with pytest.raises(OSError):
            urllib.request.urlopen(gone, timeout=2)
