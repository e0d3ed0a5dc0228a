"""The gateway in front of the real Triton, called over HTTP and by other projects' clients."""

import base64
import concurrent.futures
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.parse
import urllib.request

import httpx
import numpy as np
import pytest

from lensemble.gateway import process
from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, Item
from lensemble_contract.errors import InternalError
from tests.pictures import encode, textured
from tests.waiting import DEADLINE_S

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
    with httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
        yield client


@pytest.fixture
def direct(triton):
    with Client(triton.grpc_url) as client:
        yield client


def vectors_of(response):
    assert response.status_code == 200, response.text
    return [np.array(entry["embedding"], np.float32) for entry in response.json()["data"]]


def cosine(one, other):
    """Cosine of two unit vectors."""
    return float(one @ other)


def test_vectors_are_those_of_triton(http, direct):
    item_of_input = [
        ("parachoques", Item("parachoques")),
        (PARTS, Item("a dent", (PICTURE,))),
        ({"image": DATA_URL}, Item(images=(PICTURE,))),
        ({"content": PARTS, "instruction": "Find it."}, Item("a dent", (PICTURE,), "Find it.")),
    ]
    inputs = [item_input for item_input, _ in item_of_input]
    vectors = vectors_of(http.post("/v1/embeddings", json={"input": inputs}))
    for vector, (_, item) in zip(vectors, item_of_input, strict=True):
        expected = direct.embed(item.text, item.images or None, instruction=item.instruction)
        assert cosine(vector, expected) > 0.99999


def test_messages_give_the_vector_of_their_item(http, direct):
    system, user = {"role": "system", "content": "Find it."}, {"role": "user", "content": PARTS}
    (vector,) = vectors_of(http.post("/v1/embeddings", json={"messages": [system, user]}))
    assert cosine(vector, direct.embed("a dent", PICTURE, instruction="Find it.")) > 0.99999


def test_qwen3_embeddings_gives_the_vector_of_text_and_picture(http, direct):
    body = {"input": "a dent", "image_url": DATA_URL}
    (vector,) = vectors_of(http.post("/qwen3/embeddings", json=body))
    assert cosine(vector, direct.embed("a dent", PICTURE)) > 0.99999


def test_usage_is_the_length_of_the_prompts(http, pipeline):
    items = [Item("parachoques"), Item("a dent", (PICTURE,))]
    response = http.post("/v1/embeddings", json={"input": ["parachoques", PARTS]}).json()
    expected = sum(len(pipeline.preprocess(item).input_ids) for item in items)
    assert response["usage"] == {"prompt_tokens": expected, "total_tokens": expected}


def test_openais_own_client_works_unchanged(url, direct):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any")
    response = client.embeddings.create(model="native", input=["uno", "dos"], dimensions=64)
    assert [entry.index for entry in response.data] == [0, 1]
    assert response.usage.prompt_tokens > 0
    # The client requests base64 and returns lists of floats.
    expected = direct.embed("dos", dimensions=64)
    assert cosine(np.array(response.data[1].embedding), expected) > 0.99999
    floats = client.embeddings.create(model="native", input="uno", encoding_format="float")
    assert len(floats.data[0].embedding) == len(direct.embed("uno"))
    assert "native" in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError, match="expected 1 to"):
        client.embeddings.create(model="native", input=[])
    with pytest.raises(openai.NotFoundError, match="native"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    client.close()


def test_langchain_works_unchanged(url, direct):
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="any", model="native", check_embedding_ctx_length=False
    )
    vectors = embeddings.embed_documents(["uno", "dos", "tres"])
    assert cosine(np.array(vectors[2]), direct.embed("tres")) > 0.99999
    assert embeddings.embed_query("uno") == pytest.approx(vectors[0], abs=1e-4)


@pytest.mark.parametrize("text", ["", "word " * 20_000], ids=["blank", "too long"])
def test_text_that_cannot_be_embedded_fails_openais_client_and_langchain(url, http, text):
    """With a null in its place, they crash on it or store it."""
    import openai
    from langchain_openai import OpenAIEmbeddings

    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        with pytest.raises(openai.BadRequestError, match=r"input\[1\]"):
            client.embeddings.create(model="native", input=["uno", text])
        body = {"partial": True}
        answer = client.embeddings.with_raw_response.create(
            model="native", input=["uno", text], encoding_format="float", extra_body=body
        )
    one, two = json.loads(answer.text)["data"]
    assert one["embedding"] and two["embedding"] is None
    assert two["error"]["param"].startswith("input[1]")
    embeddings = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="any", model="native", check_embedding_ctx_length=False
    )
    with pytest.raises(openai.BadRequestError, match=r"input\[1\]"):
        embeddings.embed_documents(["uno", text])


def test_filter_with_an_unknown_field_has_warnings_over_every_protocol(http, direct, triton):
    direct.ingest("warned", "a red car", document={"year": 2019})
    unknown = "filter: no document has the field 'yaer'"
    other = "filter: 'year' is compared with a string, but in documents it is a number"
    condition = {"yaer": 1, "year": "2019"}
    try:
        with Client(triton.http_url) as over_http:
            for client in (direct, over_http):
                assert list(client.search("a car", filter=condition).warnings) == [unknown, other]
                assert client.search("a car", filter={"year": 2019}).warnings == ()
                assert client.more_like("warned", filter=condition).warnings == (unknown, other)
        answer = http.post("/v1/search", json={"input": ["a", "b"], "filter": condition}).json()
        assert answer["warnings"] == [unknown, other]
        kserve = httpx.post(
            f"{triton.http_url}/v2/models/search/infer",
            json={
                "inputs": [
                    {"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b"]}
                ],
                "outputs": [{"name": "warnings"}, {"name": "ids"}],
                "parameters": {"filter": json.dumps(condition)},
            },
            timeout=DEADLINE_S,
        ).json()
        (warnings,) = [each["data"] for each in kserve["outputs"] if each["name"] == "warnings"]
        assert [json.loads(each) for each in warnings] == [[unknown, other]] * 2
    finally:
        direct.delete(["warned"])


def test_ids_with_line_breaks_are_their_own_items_in_paths(http):
    ids = ["line", "line\n", "li\nne", "\ufffd"]
    items = [{"id": id_, "text": "a car", "document": {"id": id_}} for id_ in ids]
    assert http.post("/v1/items", json={"items": items}).status_code == 200
    assert http.delete("/v1/items/%FF").status_code == 400
    for id_ in reversed(ids):
        path = f"/v1/items/{urllib.parse.quote(id_, safe='')}"
        assert http.get(path).json()["document"] == {"id": id_}
        assert http.delete(path).json()["id"] == id_
        assert http.get(path).status_code == 404
        assert ids.pop() == id_
        for other in ids:
            assert http.get(f"/v1/items/{urllib.parse.quote(other, safe='')}").status_code == 200


def test_half_sent_heads_are_closed_while_others_are_served(triton):
    settings = GatewaySettings(
        triton=triton.grpc_url, metrics=triton.metrics_url, port=0, head_s=0.5, connections=8
    )
    with GatewayServer(settings) as running, contextlib.ExitStack() as open_sockets:
        host, port = running.url.removeprefix("http://").split(":")
        half_sent = []
        for _ in range(50):
            caller = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
            half_sent.append(open_sockets.enter_context(caller))
            caller.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: ")
        body = {"input": "uno"}
        answer = httpx.post(f"{running.url}/v1/embeddings", json=body, timeout=DEADLINE_S)
        assert answer.status_code == 200
        for caller in half_sent:
            with contextlib.suppress(ConnectionResetError):
                while caller.recv(1000):  # until the gateway closes the connection
                    pass


def test_items_are_stored_searched_and_removed(http):
    items = [
        {"id": "dent", "image": DATA_URL, "document": {"kind": "dent"}},
        {"id": "words", "text": "a red car", "document": {"kind": "text"}},
        {"id": "bad", "image": "data:image/png;base64,AAAA"},
    ]
    stored = http.post("/v1/items", json={"items": items}).json()
    assert [bool(entry["sequence"]) for entry in stored["data"]] == [True, True, False]
    assert stored["data"][2]["error"]["param"] == "items[2].image[0]"
    form = {"id": "form", "document": json.dumps({"kind": "form"})}
    other = encode(textured(90, 70, seed=5))
    assert http.post("/v1/items", data=form, files={"image": ("x.png", other)}).status_code == 200

    hits = http.post("/v1/search", json={"input": [{"image": DATA_URL}, "a red car"]}).json()
    assert [entry["hits"][0]["id"] for entry in hits["data"]] == ["dent", "words"]
    assert hits["data"][0]["hits"][0]["score"] > 0.999
    filtered = {"input": {"image": DATA_URL}, "filter": {"kind": "form"}}
    (entry,) = http.post("/v1/search", json=filtered).json()["data"]
    assert [hit["id"] for hit in entry["hits"]] == ["form"]
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


def test_each_of_many_callers_gets_its_own_vector(http, direct):
    texts = [f"{'word ' * (n % 5)}{n}" for n in range(32)]

    def embed(text):
        (vector,) = vectors_of(http.post("/v1/embeddings", json={"input": text}))
        return vector

    with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
        vectors = list(pool.map(embed, texts))
    for text, vector in zip(texts, vectors, strict=True):
        assert cosine(vector, direct.embed(text)) > 0.999


def test_gateway_without_triton_runs_and_reports_errors():
    settings = GatewaySettings(
        triton="grpc://127.0.0.1:9", metrics="http://127.0.0.1:9/metrics", port=0, timeout_s=1
    )
    with (
        GatewayServer(settings) as running,
        httpx.Client(base_url=running.url, timeout=DEADLINE_S) as http,
    ):
        assert http.get("/health").status_code == 503
        response = http.post("/v1/embeddings", json={"input": "a"})
        assert response.status_code in (503, 504)
        assert response.json()["error"]["code"] in ("not_ready", "deadline_exceeded")


def test_unusable_setting_ends_the_gateway_with_the_reason(tmp_path):
    with (tmp_path / "log").open("wb") as log, pytest.raises(InternalError, match="status 1"):
        GatewayServer(GatewaySettings(host="0.0.0.0", port=0), log).start()
    assert "LENSEMBLE_GATEWAY_HOST" in (tmp_path / "log").read_text()


def test_example_of_the_process_module_works_when_pasted(triton, capsys):
    _, _, example = process.__doc__.partition("has started:\n\n")
    code = textwrap.dedent(example).replace("grpc://127.0.0.1:8001", triton.grpc_url)
    exec(compile(code, "example", "exec"), {})
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_no_generated_request_gives_a_server_error(url):
    """Schemathesis generates requests from the gateway's OpenAPI schema."""
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
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    ((generated, passed),) = re.findall(r"(\d+) generated, (\d+) passed", ran.stdout)
    assert generated == passed and int(passed) > 300


def test_up_starts_and_stops_server_and_gateway(checkpoint, tmp_path):
    keys = tmp_path / "keys.json"
    cli = [sys.executable, "-m", "lensemble_cli.main"]

    def run_keys(*arguments):
        command = [*cli, "keys", *arguments, "--keys", str(keys)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    key = run_keys("add", "me").strip()
    assert run_keys("list") == "me  read\n"
    ports = [
        argument
        for name in ("grpc", "http", "metrics", "gateway", "health")
        for argument in (f"--{name}-port", "0")
    ]
    up = subprocess.Popen(
        [*cli, "up", "--checkpoint", str(checkpoint), "--gateway", "--keys", str(keys), *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = [up.stdout.readline().strip() for _ in range(5)]
        url = lines[4].removeprefix("gateway: ")
        assert httpx.get(f"{url}/v1/models", timeout=DEADLINE_S).status_code == 401
        response = httpx.post(
            f"{url}/v1/embeddings",
            json={"input": "hello"},
            headers={"Authorization": f"Bearer {key}"},
            timeout=DEADLINE_S,
        )
        assert response.status_code == 200
    finally:
        up.send_signal(signal.SIGINT)
        status = up.wait(DEADLINE_S)
        up.stdout.close()
    assert status == 0
    for stopped in (url, lines[1]):
        with pytest.raises(OSError):
            urllib.request.urlopen(stopped, timeout=2)
