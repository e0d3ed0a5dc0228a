"""The chat server that other tests talk to answers as OpenAI's does."""

import base64
import io
import json
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.chat_server import LEAST_TOKENS, ChatServer, write_chat_checkpoint

pytestmark = pytest.mark.e2e


def picture() -> str:
    written = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def test_answers_a_text_and_a_picture_at_once_and_in_pieces(tmp_path):
    folder = tmp_path / "tiny-chat"
    write_chat_checkpoint(folder)
    text = {"type": "text", "text": "What is in the picture?"}
    seen = {"type": "image_url", "image_url": {"url": picture()}}
    with ChatServer(folder) as server, httpx.Client(timeout=60) as client:

        def body(*content, **more):
            messages = [{"role": "user", "content": list(content)}]
            return {"model": server.model, "messages": messages, "temperature": 0, **more}

        def ask(*content, **more):
            answer = client.post(f"{server.url}/chat/completions", json=body(*content, **more))
            assert answer.status_code == 200, (answer.text, server.log_tail())
            return answer.json()

        whole = ask(text, seen)
        (choice,) = whole["choices"]
        said = choice["message"]["content"]
        assert said.replace(" ", "").isalpha() and said.isascii() and said.islower()
        assert choice["message"]["role"] == "assistant" and choice["finish_reason"] == "stop"
        assert whole["usage"]["completion_tokens"] >= LEAST_TOKENS

        # 64x64 pixels are four tokens, between the two that mark a picture.
        words = ask(text)
        assert whole["usage"]["prompt_tokens"] == words["usage"]["prompt_tokens"] + 6
        assert words["choices"][0]["message"]["content"] != said

        short = ask(text, seen, max_tokens=3)
        assert short["usage"]["completion_tokens"] == 3
        assert short["choices"][0]["finish_reason"] == "length"

        chunks = []
        asked = body(text, seen, stream=True)
        with client.stream("POST", f"{server.url}/chat/completions", json=asked) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                if line:
                    assert line.startswith("data: "), line
                    chunks.append(json.loads(line.removeprefix("data: ")))
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert len(chunks) > 3
        assert "".join(delta.get("content", "") for delta in deltas) == said
        assert chunks[-1]["usage"] == whole["usage"]
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"

        pid, left = server.pid, server._log.parent
    assert not Path(f"/proc/{pid}").exists() and not left.exists()
