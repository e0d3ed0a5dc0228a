"""A chat server on loopback in OpenAI's shape: it names a picture's colour, and fails on order."""

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

MODEL, KEY = "names-colours", "sk-very-secret"
COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 160, 30),
    "blue": (30, 30, 200),
    "yellow": (230, 220, 40),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
TOKENS = 42


def plain(colour: str, width: int = 40, height: int = 30) -> Image.Image:
    return Image.new("RGB", (width, height), COLOURS[colour])


def description(*colours: str) -> str:
    """What the server says of pictures of these colours."""
    return " and ".join(f"a {colour} picture" for colour in colours)


def colour_of(jpeg: bytes) -> str:
    mean = np.asarray(Image.open(io.BytesIO(jpeg)), float).mean(axis=(0, 1))
    return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())


@dataclass
class ChatServer:
    """What it was asked, and how it is to answer.

    Attributes:
        failing: Colour -> what happens to a picture of it: a status, "hang", "garbage", "empty",
            "nothing".
        bodies: Requests, decoded.
        keys: Their `Authorization` headers.
        most: Requests that were under way together, at most.
    """

    url: str = ""
    delay_s: float = 0.0
    failing: dict[str, int | str] = field(default_factory=dict)
    bodies: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        self.failing, self.bodies, self.keys, self.most, self.delay_s = {}, [], [], 0, 0.0

    def answer(self, body: dict) -> tuple[int, bytes]:
        parts = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        colours = [colour_of(base64.b64decode(url.split(",")[1])) for url in urls]
        time.sleep(self.delay_s)
        for fault in filter(None, map(self.failing.get, colours)):
            if isinstance(fault, int):
                return fault, f'{{"error": {{"message": "{KEY}"}}}}'.encode()
            if fault == "hang":
                self.done.wait(20)
            return 200, {"garbage": b"<html>", "nothing": b'{"choices": []}'}.get(
                fault, _completion("  \n")
            )
        return 200, _completion(f"{description(*colours)}\n")


def _completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    said = {"choices": [{"index": 0, "message": message}], "usage": {"total_tokens": TOKENS}}
    return json.dumps(said).encode()


@contextlib.contextmanager
def running() -> Iterator[ChatServer]:
    """The server, until the block is left."""
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with chat.lock:
                chat.bodies.append(body)
                chat.keys.append(self.headers["Authorization"])
                chat.under_way += 1
                chat.most = max(chat.most, chat.under_way)
            try:
                known = self.path == "/v1/chat/completions" and body["model"] == MODEL
                status, said = chat.answer(body) if known else (404, b"{}")
            finally:
                with chat.lock:
                    chat.under_way -= 1
            with contextlib.suppress(OSError):  # the caller may have given up
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

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
        chat.done.set()
        server.shutdown()
        thread.join()
        server.server_close()
