"""Chat and RAG through the gateway, with a real chat server and the real Triton behind it."""

import base64
import json

import httpx
import pytest

from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client
from tests.chat_server import ChatServer, write_chat_checkpoint
from tests.pictures import encode, textured
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e
PICTURES = {name: encode(textured(64, 64, seed=n)) for n, name in enumerate(("one", "two"))}


def data_url(picture):
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "tiny-chat"
    write_chat_checkpoint(folder)
    with ChatServer(folder) as running:
        yield running


@pytest.fixture(scope="module")
def url(chat, checkpoint, tmp_path_factory):
    """URL of the gateway. Its index has two pictures, one of them outside the pictures' folder."""
    folder = tmp_path_factory.mktemp("rag")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.png").write_bytes(PICTURES["one"])
    (folder / "two.png").write_bytes(PICTURES["two"])
    settings = Settings(checkpoint=checkpoint, index=folder / "index", dtype="fp32", writes="on")
    with TritonServer(settings) as triton:
        with Client(triton.grpc_url) as client:
            for name, path in (("one", "one.png"), ("two", "../two.png")):
                document = {"image": path, "damage": f"{name} dent"}
                client.ingest(name, image=PICTURES[name], document=document)
        gateway_settings = GatewaySettings(
            triton=triton.grpc_url,
            metrics=triton.metrics_url,
            port=0,
            chat=chat.url,
            chat_model=chat.model,
            pictures=folder / "pictures",
        )
        with GatewayServer(gateway_settings) as running:
            yield running.url


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
        yield client


def events(stream):
    """The JSON objects of a stream of server-sent events."""
    lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_chat_request_is_forwarded_unchanged(http, chat):
    content = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": data_url(PICTURES["one"])}},
    ]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
    direct = httpx.post(
        f"{chat.url}/chat/completions", json={"model": chat.model, **body}, timeout=DEADLINE_S
    ).json()
    for path in ("/v1/chat/completions", "/qwen3/chat/completions"):
        response = http.post(path, json=body)  # the gateway adds the model's name
        assert response.status_code == 200, response.text
        assert response.json()["choices"] == direct["choices"]
        assert response.json()["usage"] == direct["usage"]
        assert "chat;dur=" in response.headers["server-timing"]
    with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        pieces = [event["choices"][0]["delta"].get("content") or "" for event in events(stream)]
    assert len(pieces) > 3
    assert "".join(pieces) == direct["choices"][0]["message"]["content"]


def test_openais_client_chats_through_the_gateway(url, chat):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any")
    messages = [{"role": "user", "content": "Hello"}]
    whole = client.chat.completions.create(model=chat.model, messages=messages, max_tokens=6)
    pieces = client.chat.completions.create(
        model=chat.model, messages=messages, max_tokens=6, stream=True
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.choices[0].message.content
    client.close()


def test_refusal_by_the_chat_server_reaches_the_caller(http):
    body = {"model": "another", "messages": [{"role": "user", "content": "a"}]}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "error" not in response.json()  # the chat server's own body, not one of the gateway


def test_answer_comes_with_its_sources(http):
    question = {"image": data_url(PICTURES["one"]), "text": "What damage is it?"}
    body = {"input": question, "top_k": 2, "max_tokens": 8}
    response = http.post("/v1/rag", json=body)
    assert response.status_code == 200, response.text
    completion = response.json()
    assert completion["choices"][0]["message"]["content"]
    assert [source["number"] for source in completion["sources"]] == [1, 2]
    first, second = completion["sources"]
    assert (first["id"], first["document"]["damage"], first["picture"]) == ("one", "one dent", True)
    # `../two.png` lies outside the folder of pictures, so the chat server does not get it.
    assert (second["id"], second["picture"]) == ("two", False)
    assert first["score"] > second["score"]
    timing = response.headers["server-timing"]
    assert all(f"{stage};dur=" in timing for stage in ("encode", "search", "chat"))

    fewer = http.post("/v1/rag", json={**body, "top_k": 1}).json()
    # With one source less, the prompt is shorter by the source's text.
    assert fewer["usage"]["prompt_tokens"] < completion["usage"]["prompt_tokens"]
    none = http.post("/v1/rag", json={**body, "filter": {"damage": "other"}}).json()
    assert none["sources"] == []
    # Without sources, only the question's text and picture remain.
    assert none["usage"]["prompt_tokens"] < fewer["usage"]["prompt_tokens"]


def test_stream_starts_with_its_sources(http):
    body = {"input": "one dent", "max_tokens": 8, "stream": True, "exclude": ["two"]}
    with http.stream("POST", "/v1/rag", json=body) as stream:
        assert stream.status_code == 200
        first, *rest = events(stream)
    assert [source["id"] for source in first["sources"]] == ["one"]
    assert first["choices"][0]["delta"]["content"] == ""
    assert any(event["choices"][0]["delta"].get("content") for event in rest)
    whole = http.post("/v1/rag", json={**body, "stream": False}).json()
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in rest)
    assert text == whole["choices"][0]["message"]["content"]


def test_malformed_question_is_refused(http):
    response = http.post("/v1/rag", json={"input": {"image": "data:image/png;base64,AAAA"}})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "image[0]")
    assert http.post("/v1/rag", json={"question": "a"}).status_code == 400
