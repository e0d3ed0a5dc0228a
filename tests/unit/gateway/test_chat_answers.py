"""Answers of a chat server that cannot be passed on: wrong shape, too large, too slow, broken."""

import asyncio
import contextlib
import itertools
import json
import socket

import pytest

from lensemble.gateway import chat_server
from lensemble.gateway.event_stream import EventStreamCheck
from tests.gateway import gateway

COMPLETION = b'{"choices": [{"message": {"content": "hello"}}]}'
EVENT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
# Path -> field of a body that has the question.
CONTENT = {"/v1/chat/completions": "messages", "/v1/rag": "input"}
JSON, EVENTS, HTML = "application/json", "text/event-stream", "text/html"


def head(status="200 OK", content_type=JSON, *, length=None):
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", "Connection: close"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def post(answer, *, path="/v1/chat/completions", stream=False, **settings):
    """The gateway's response, in front of a chat server that answers with these parts."""
    (response,) = post_each(answer, [(path, stream)], **settings)
    return response


def post_each(answer, requests, **settings):
    """The gateway's responses to requests, which are pairs of a path and `stream`.

    A part is bytes, or `None`, which waits for ever. A part that is an iterator is sent bit by bit.
    """

    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            for part in answer:
                if part is None:
                    await reader.read()
                for piece in [part] if isinstance(part, bytes) else part or ():
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    async def send():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        defaults = {"chat": f"http://127.0.0.1:{port}/v1", "chat_model": "m"}
        async with server, gateway(**{**defaults, **settings}) as http:
            return [
                await http.post(path, json={CONTENT[path]: "a", "stream": stream})
                for path, stream in requests
            ]

    return asyncio.run(send())


def error_of(response):
    return response.json()["error"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([head(content_type=HTML), b"<html>login</html>"], "not with JSON (text/html"),
        ([head(), b'{"choices": [NaN]}'], "NaN"),
        ([head(), b'{"error": "no"}'], "no completion"),
        ([head(), b"[]"], "no completion"),
        ([head(), b""], "not with JSON"),
        ([head("302 Found"), b""], "status 302"),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"], "101"),
        ([head("204 No Content")], "status 204"),
        ([head("404 Not Found", HTML), b"<html>"], "status 404, and not with JSON"),
        ([head("500 Internal Server Error"), b"{}"], "status 500"),
    ],
)
def test_answer_of_another_shape_is_502_with_the_reason(answer, reason):
    for response in post_each(answer, itertools.product(CONTENT, [False, True])):
        assert response.status_code == 502, response.text
        assert error_of(response)["code"] == "chat_server_failed"
        assert reason in error_of(response)["message"]
        assert "login" not in response.text


def test_completion_is_passed_on_unchanged():
    response = post([head(length=len(COMPLETION)), COMPLETION])
    assert response.status_code == 200
    assert response.content == COMPLETION
    assert response.headers["content-type"] == JSON


def test_error_in_json_keeps_its_status_and_body():
    response = post([head("400 Bad Request"), b'{"error": {"message": "too long"}}'])
    assert response.status_code == 400
    assert error_of(response) == {"message": "too long"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/rag"])
def test_answer_that_is_too_large_is_502(path):
    endless = (b'"' + b"x" * 10_000 for _ in range(100_000))
    response = post([head(), endless], path=path, chat_bytes=100_000)
    assert response.status_code == 502
    assert "more than 100000 bytes" in error_of(response)["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_answer_that_takes_too_long_is_502_although_it_is_never_silent(stream):
    drip = iter(lambda: b" ", b"")  # one byte after the other, without end
    response = post([head(), drip], stream=stream, chat_total_s=0.1, chat_bytes=10**9)
    assert response.status_code == 502
    assert "within 0.1 s" in error_of(response)["message"]


def test_silent_chat_server_is_504():
    response = post([None], chat_s=0.1)
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"


def test_chat_server_that_accepts_no_connection_is_not_ready(monkeypatch):
    """The queue of connections is full, so the kernel does not answer, as a dead host would."""
    monkeypatch.setattr(chat_server, "_CONNECT_S", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        contextlib.ExitStack() as waiting,
    ):
        for _ in range(4):
            caller = waiting.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        response = post([], chat=f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    assert response.status_code == 503
    assert error_of(response)["code"] == "not_ready"


def test_answer_that_breaks_off_is_not_ready():
    response = post([head(length=1000), COMPLETION])
    assert response.status_code == 503
    assert "broke off" in error_of(response)["message"]


def test_stream_is_passed_on_unchanged():
    events = (
        b": comment\n\nevent: x\r\n" + EVENT.replace(b"\n", b"\r\n") + EVENT + b"data: [DONE]\n\n"
    )
    response = post([head(content_type=EVENTS), [bytes([byte]) for byte in events]], stream=True)
    assert response.status_code == 200
    assert response.content == events


@pytest.mark.parametrize(
    ("rest", "settings", "code", "reason"),
    [
        (b"<html>\n\n", {}, "chat_server_failed", "no server-sent event"),
        (b'data: {"a": NaN}\n\n', {}, "chat_server_failed", "no JSON object"),
        (b'data: {"a": ', {}, "chat_server_failed", "no JSON object"),
        (b"data: 7\n\n", {}, "chat_server_failed", "no JSON object"),
        (EVENT * 100, {"chat_bytes": 1000}, "chat_server_failed", "more than 1000 bytes"),
        (None, {"chat_total_s": 0.3}, "chat_server_failed", "within 0.3 s"),
        (None, {"chat_s": 0.3}, "deadline_exceeded", "nothing for 0.3 s"),
    ],
)
def test_stream_that_fails_ends_with_the_error(rest, settings, code, reason):
    answer = [head(content_type=EVENTS), EVENT, b"data: {", rest]
    if rest:
        answer = [head(content_type=EVENTS), EVENT, rest]
    response = post(answer, stream=True, **settings)
    assert response.status_code == 200
    assert response.content.startswith(EVENT)
    assert b"NaN" not in response.content
    last = response.content.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error["code"] == code
    assert reason in error["message"]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_last_event_needs_no_empty_line_after_it(end):
    answer = [head(content_type=EVENTS), EVENT, EVENT.rstrip() + end]
    response = post(answer, stream=True)
    assert response.content == EVENT + EVENT.rstrip() + end


def test_event_is_held_back_until_it_is_complete():
    check = EventStreamCheck(10_000)
    for byte in EVENT[:-1]:
        assert not [*check.feed(bytes([byte]))]
    assert [*check.feed(EVENT[-1:] + EVENT[:3])] == [EVENT]
