"""What the gateway asks of a chat server, and what it makes of its faults."""

import asyncio
import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lensemble.gateway.routes.rag import SYSTEM
from tests.gateway import DATA_URL, gateway


class Chat(BaseHTTPRequestHandler):
    """Answers with what it was asked; the model's name says how."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = asked["model"]
        if kind == "silent":
            threading.Event().wait(1)
            return
        status = {"locked": 401, "broken": 500, "picky": 422}.get(kind, 200)
        said = {"asked": asked, "key": self.headers.get("Authorization"), "path": self.path}
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def chat():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(path, body, headers=None, **settings):
    async def go():
        async with gateway(**settings) as http:
            return await http.post(path, json=body, headers=headers)

    return asyncio.run(go())


def test_callers_key_stays_here_and_the_gateways_goes_on(chat):
    body = {"model": "m", "messages": [], "anything": 1}
    for path in ("/v1/chat/completions", "/qwen3/chat/completions"):
        said = ask(path, body, {"Authorization": "Bearer mine"}, chat=chat, chat_key="ours").json()
        assert said["key"] == "Bearer ours"
        assert said["asked"] == body
        assert said["path"] == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("locked", 502, "chat_server_refused"),
        ("silent", 504, "deadline_exceeded"),
        ("broken", 502, "chat_server_failed"),
        ("picky", 422, None),
    ],
)
def test_faults_of_the_chat_server(chat, model, status, code):
    for stream in (False, True):
        body = {"model": model, "messages": [], "stream": stream}
        answer = ask("/v1/chat/completions", body, chat=chat, chat_s=0.3)
        assert answer.status_code == status
        assert answer.json().get("error", {}).get("code") == code
        rag = ask(
            "/v1/rag", {"input": "a", "model": model, "stream": stream}, chat=chat, chat_s=0.3
        )
        assert rag.status_code == status


def test_no_chat_server_is_said_so():
    for path, body in (("/v1/chat/completions", {}), ("/v1/rag", {"input": "a"})):
        answer = ask(path, body)
        assert answer.json()["error"]["code"] == "no_chat_server"
    gone = ask("/v1/chat/completions", {"model": "m"}, chat="http://127.0.0.1:9/v1")
    assert gone.json()["error"]["code"] == "not_ready"
    assert "127.0.0.1" not in gone.text
    for raw in ({"messages": []}, []):
        assert ask("/v1/chat/completions", raw, chat="http://127.0.0.1:9").status_code == 400


def test_turn_of_a_question(chat, tmp_path):
    """The fake Triton finds `one`, whose document names a picture, and `two`."""
    (tmp_path / "one.png").write_bytes(b"\x89PNG picture")
    body = {
        "input": [
            {"type": "text", "text": "what?"},
            {"type": "image_url", "image_url": {"url": DATA_URL}},
        ],
        "max_tokens": 5,
    }
    said = ask("/v1/rag", body, chat=chat, chat_model="m", pictures=tmp_path).json()
    system, user = said["asked"]["messages"]
    assert system == {"role": "system", "content": SYSTEM}
    written = base64.b64encode(b"\x89PNG picture").decode()
    shown = f"data:image/png;base64,{written}"
    assert user["content"] == [
        {"type": "text", "text": '[1] one: {"image": "one.png"}'},
        {"type": "image_url", "image_url": {"url": shown}},
        {"type": "text", "text": "[2] two: {}"},
        {"type": "text", "text": "Question: what?"},
        {"type": "image_url", "image_url": {"url": DATA_URL}},
    ]
    assert said["asked"]["max_tokens"] == 5
    assert [source["picture"] for source in said["sources"]] == [True, False]
    own = ask("/v1/rag", {"input": "a", "system": "Be short."}, chat=chat, chat_model="m").json()
    assert own["asked"]["messages"][0]["content"] == "Be short."
    assert [source["picture"] for source in own["sources"]] == [False, False]


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "link.png", "a\0b", "none.png"])
def test_picture_outside_of_the_folder_is_not_read(path, tmp_path):
    from lensemble.gateway.routes.rag import _picture

    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "ok.png").write_bytes(b"ok")
    assert _picture(path, folder) is None
    assert _picture("ok.png", folder) == b"ok"
    assert _picture("ok.png", None) is None
    assert _picture(7, folder) is None
