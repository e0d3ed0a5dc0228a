"""The gateway's requests to a chat server, and its responses when the chat server fails."""

import asyncio
import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lensemble.gateway.routes.rag import SYSTEM_MESSAGE
from lensemble.gateway.routes.rag_sources import MAX_PICTURES, read_picture, read_pictures
from lensemble.gateway.settings import GatewaySettings
from lensemble_client.results import Hit
from tests.gateway import DATA_URL, FakeTriton, gateway


class EchoHandler(BaseHTTPRequestHandler):
    """Answers with the request it got; the model's name chooses a failure instead."""

    closing = threading.Event()

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if request["model"] == "silent":
            self.closing.wait()
            return
        status = {"locked": 401, "broken": 500, "picky": 422}.get(request["model"], 200)
        echo = {
            "choices": [],
            "request": request,
            "key": self.headers.get("Authorization"),
            "path": self.path,
        }
        body = json.dumps(echo).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def chat_url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), EchoHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    EchoHandler.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def post(path, body, headers=None, **settings):
    async def send():
        async with gateway(**settings) as http:
            return await http.post(path, json=body, headers=headers)

    return asyncio.run(send())


def test_callers_key_is_not_forwarded_and_the_gateways_key_is(chat_url):
    body = {"model": "m", "messages": [], "anything": 1}
    caller = {"Authorization": "Bearer mine"}
    for path in ("/v1/chat/completions", "/qwen3/chat/completions"):
        echo = post(path, body, caller, chat=chat_url, chat_key="ours").json()
        assert echo["key"] == "Bearer ours"
        assert echo["request"] == body
        assert echo["path"] == "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("locked", 502, "chat_server_refused"),
        ("silent", 504, "deadline_exceeded"),
        ("broken", 502, "chat_server_failed"),
        ("picky", 422, None),
    ],
)
def test_failure_of_the_chat_server_becomes_an_error(chat_url, model, status, code, stream):
    settings = {"chat": chat_url, "chat_s": 0.1 if model == "silent" else 120}
    body = {"model": model, "messages": [], "stream": stream}
    response = post("/v1/chat/completions", body, **settings)
    assert response.status_code == status
    assert response.json().get("error", {}).get("code") == code
    rag = post("/v1/rag", {"input": "a", "model": model, "stream": stream}, **settings)
    assert rag.status_code == status


def test_missing_chat_server_has_its_own_error():
    for path, body in (("/v1/chat/completions", {}), ("/v1/rag", {"input": "a"})):
        assert post(path, body).json()["error"]["code"] == "no_chat_server"


def test_unreachable_chat_server_is_not_ready_and_its_address_stays_secret():
    response = post("/v1/chat/completions", {"model": "m"}, chat="http://127.0.0.1:9/v1")
    assert response.json()["error"]["code"] == "not_ready"
    assert "127.0.0.1" not in response.text


@pytest.mark.parametrize("body", [{"messages": []}, []], ids=["no model", "no object"])
def test_malformed_chat_request_is_refused(body):
    response = post("/v1/chat/completions", body, chat="http://127.0.0.1:9")
    assert response.status_code == 400


def test_rag_sends_sources_and_question_to_the_chat_server(chat_url, tmp_path):
    """The fake Triton finds `one`, whose document names a picture, and `two`."""
    (tmp_path / "one.png").write_bytes(b"\x89PNG picture")
    body = {
        "input": [
            {"type": "text", "text": "what?"},
            {"type": "image_url", "image_url": {"url": DATA_URL}},
        ],
        "max_tokens": 5,
    }
    echo = post("/v1/rag", body, chat=chat_url, chat_model="m", pictures=tmp_path).json()
    system, user = echo["request"]["messages"]
    assert system == {"role": "system", "content": SYSTEM_MESSAGE}
    encoded = base64.b64encode(b"\x89PNG picture").decode()
    assert user["content"] == [
        {"type": "text", "text": '[1] one: {"image": "one.png"}'},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "text", "text": "[2] two: {}"},
        {"type": "text", "text": "Question: what?"},
        {"type": "image_url", "image_url": {"url": DATA_URL}},
    ]
    assert echo["request"]["max_tokens"] == 5
    assert [source["picture"] for source in echo["sources"]] == [True, False]


def test_rag_has_the_warnings_about_its_filter(chat_url):
    triton = FakeTriton()
    triton.warnings = ["no document has it"]
    body = {"input": "a", "filter": {"x": 1}}
    echo = post("/v1/rag", body, triton=triton, chat=chat_url, chat_model="m").json()
    assert echo["warnings"] == triton.warnings


def test_rag_sends_pictures_of_the_first_sources_only(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    hits = [Hit(str(n), 0.5, {"image": "a.png"}) for n in range(MAX_PICTURES + 1)]
    pictures = read_pictures(hits, GatewaySettings(pictures=tmp_path))
    assert pictures == [b"picture"] * MAX_PICTURES + [None]


def test_rag_takes_a_system_message_and_works_without_pictures(chat_url):
    body = {"input": "a", "system": "Be short."}
    echo = post("/v1/rag", body, chat=chat_url, chat_model="m").json()
    assert echo["request"]["messages"][0]["content"] == "Be short."
    assert [source["picture"] for source in echo["sources"]] == [False, False]


@pytest.fixture
def pictures(tmp_path):
    """A folder with `ok.png`, and a link to a file outside of it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "ok.png").write_bytes(b"ok")
    return folder


def test_picture_in_the_folder_is_read(pictures):
    assert read_picture("ok.png", pictures) == b"ok"


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/hostname", "link.png", "a\0b", "none.png", "", 7, None]
)
def test_picture_outside_the_folder_is_not_read(path, pictures):
    assert read_picture(path, pictures) is None


def test_no_picture_is_read_without_a_folder():
    assert read_picture("ok.png", None) is None
