"""A fake chat server in OpenAI's shape, on loopback: it names colours, and fails when told to."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from tests.waiting import DEADLINE_S

MODEL, KEY = "names-colours", "sk-very-secret"
COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 160, 30),
    "blue": (30, 30, 200),
    "yellow": (230, 220, 40),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
# Tokens of every answer.
TOKENS = 42


def plain(colour: str, width: int = 40, height: int = 30) -> Image.Image:
    return Image.new("RGB", (width, height), COLOURS[colour])


def description(*colours: str) -> str:
    """The server's answer to pictures of these colours."""
    return " and ".join(f"a {colour} picture" for colour in colours)


def colour_of(jpeg: bytes) -> str:
    """The colour of `COLOURS` that is nearest to a picture's mean colour."""
    mean = np.asarray(Image.open(io.BytesIO(jpeg)), float).mean(axis=(0, 1))
    return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())


@dataclass
class FakeChatServer:
    """The requests that the server got, and how it answers.

    Attributes:
        url: base URL.
        delay_s: shortest time of each answer in seconds.
        open_together: no request is answered until this many have been open at the same time.
        failing: colour -> failure of requests with a picture of it: an HTTP status, "hang" (no
            answer), "garbage" (HTML), "empty" (a blank text), "nothing" (no choices).
        bodies: bodies of the requests, decoded.
        keys: their `Authorization` headers.
        most_open: largest number of requests that were open at the same time.
    """

    url: str = ""
    delay_s: float = 0.0
    open_together: int = 0
    failing: dict[str, int | str] = field(default_factory=dict)
    bodies: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_open: int = 0
    _open: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closing: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        self.failing, self.bodies, self.keys = {}, [], []
        self.delay_s, self.open_together, self.most_open = 0.0, 0, 0

    @contextlib.contextmanager
    def request(self, body: dict, key: str | None) -> Iterator[None]:
        """Records a request, which is open until the block is left."""
        with self._changed:
            self.bodies.append(body)
            self.keys.append(key)
            self._open += 1
            self.most_open = max(self.most_open, self._open)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most_open >= self.open_together, DEADLINE_S)
        try:
            yield
        finally:
            with self._changed:
                self._open -= 1

    def answer(self, body: dict) -> tuple[int, bytes]:
        """Status and body of the response to a request."""
        parts = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        colours = [colour_of(base64.b64decode(url.split(",")[1])) for url in urls]
        time.sleep(self.delay_s)
        for failure in filter(None, map(self.failing.get, colours)):
            if isinstance(failure, int):
                return failure, f'{{"error": {{"message": "{KEY}"}}}}'.encode()
            if failure == "hang":
                self._closing.wait()
            broken = {"garbage": b"<html>", "nothing": b'{"choices": []}'}
            return 200, broken.get(failure, _completion("  \n"))
        return 200, _completion(f"{description(*colours)}\n")

    def close(self) -> None:
        """Ends the requests that hang."""
        self._closing.set()


def _completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return json.dumps({"choices": [choice], "usage": {"total_tokens": TOKENS}}).encode()


@contextlib.contextmanager
def running() -> Iterator[FakeChatServer]:
    """A server that runs until the block is left."""
    chat = FakeChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with chat.request(request, self.headers["Authorization"]):
                known = self.path == "/v1/chat/completions" and request["model"] == MODEL
                status, body = chat.answer(request) if known else (404, b"{}")
            with contextlib.suppress(OSError):  # the caller may have given up
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        chat.close()
        server.shutdown()
        thread.join()
        server.server_close()
