"""The chat server that other tests use answers as OpenAI's does."""

import base64
import json
from pathlib import Path

import httpx
import pytest

from tests.chat_server import MIN_TOKENS, ChatServer, write_chat_checkpoint
from tests.fake_chat_server import plain
from tests.pictures import encode
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e

TEXT = {"type": "text", "text": "What is in the picture?"}
PICTURE_URL = f"data:image/png;base64,{base64.b64encode(encode(plain('red', 64, 64))).decode()}"
PICTURE = {"type": "image_url", "image_url": {"url": PICTURE_URL}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "tiny-chat"
    write_chat_checkpoint(folder)
    with ChatServer(folder) as running:
        yield running


def chat_request(server, *content, **options):
    messages = [{"role": "user", "content": list(content)}]
    return {"model": server.model, "messages": messages, "temperature": 0, **options}


def ask(server, *content, **options):
    body = chat_request(server, *content, **options)
    response = httpx.post(f"{server.url}/chat/completions", json=body, timeout=DEADLINE_S)
    assert response.status_code == 200, (response.text, server.log_tail())
    return response.json()


def text_of(completion):
    return completion["choices"][0]["message"]["content"]


def test_answer_is_lower_case_words_of_the_assistant(server):
    completion = ask(server, TEXT, PICTURE)
    (choice,) = completion["choices"]
    text = choice["message"]["content"]
    assert text.replace(" ", "").isalpha() and text.isascii() and text.islower()
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"
    assert completion["usage"]["completion_tokens"] >= MIN_TOKENS


def test_picture_adds_its_tokens_and_changes_the_answer(server):
    with_picture, without = ask(server, TEXT, PICTURE), ask(server, TEXT)
    # 64x64 pixels are four tokens, and two more mark begin and end of the picture.
    prompt_tokens = without["usage"]["prompt_tokens"] + 6
    assert with_picture["usage"]["prompt_tokens"] == prompt_tokens
    assert text_of(with_picture) != text_of(without)


def test_max_tokens_ends_the_answer(server):
    short = ask(server, TEXT, PICTURE, max_tokens=3)
    assert short["usage"]["completion_tokens"] == 3
    assert short["choices"][0]["finish_reason"] == "length"


def test_stream_has_the_same_answer_in_pieces(server):
    completion = ask(server, TEXT, PICTURE)
    body = chat_request(server, TEXT, PICTURE, stream=True)
    chunks = []
    with httpx.stream(
        "POST", f"{server.url}/chat/completions", json=body, timeout=DEADLINE_S
    ) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in filter(None, stream.iter_lines()):
            assert line.startswith("data: "), line
            chunks.append(json.loads(line.removeprefix("data: ")))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert len(chunks) > 3
    assert "".join(delta.get("content", "") for delta in deltas) == text_of(completion)
    assert chunks[-1]["usage"] == completion["usage"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_stopped_server_leaves_no_process_and_no_files(server):
    with ChatServer(server._working_folder / server.model) as other:
        pid, home = other.pid, other._log.parent
        assert Path(f"/proc/{pid}").exists() and home.exists()
    assert not Path(f"/proc/{pid}").exists() and not home.exists()
