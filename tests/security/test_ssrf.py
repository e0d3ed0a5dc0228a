"""Fetching pictures from other hosts must not reach hosts inside the network (SSRF).

The other host is a real https server on loopback.
"""

import asyncio
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from lensemble.gateway.inputs.public_addresses import is_public
from lensemble.gateway.inputs.remote_pictures import MAX_REDIRECTS, PictureFetcher
from lensemble_contract.errors import DeadlineExceededError, InvalidInputError
from tests.waiting import DEADLINE_S

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "not an address",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_address_is_public(address):
    assert is_public(address)


class PictureHandler(BaseHTTPRequestHandler):
    """The path chooses the response: a picture, a redirect, a failure."""

    closing = threading.Event()

    def do_GET(self):
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "hop":  # /hop/N redirects N + 1 times
            hops = int(rest)
            location = f"/hop/{hops - 1}" if hops else f"https://{self.headers['Host']}/ok"
            self.respond(302, location)
        elif kind == "to":
            self.respond(307, rest)
        elif kind == "slow":
            self.respond(200)
            self.closing.wait()
        elif kind == "big":
            self.respond(200)
            self.wfile.write(b"x" * 5000)
        elif kind == "ok":
            self.respond(200)
            encoding, has_cookie = self.headers["Accept-Encoding"], "Cookie" in self.headers
            self.wfile.write(f"{encoding} {has_cookie}".encode())
        else:
            self.respond(200 if kind == "empty" else 404)

    def respond(self, status, location=None):
        self.send_response(status)
        if location is not None:
            self.send_header("Location", location)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    """`localhost:port` of the https server, and a TLS context that trusts it."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    running = ThreadingHTTPServer(("127.0.0.1", 0), PictureHandler)
    running.socket = server_context.wrap_socket(running.socket, server_side=True)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield f"localhost:{running.server_address[1]}", client_context
    PictureHandler.closing.set()
    running.shutdown()
    thread.join()
    running.server_close()


def fetch(url, hosts, context=None, *, is_allowed=lambda _: True, timeout_s=DEADLINE_S):
    async def run():
        fetcher = PictureFetcher(hosts, 1000, timeout_s, is_allowed=is_allowed, ssl=context)
        try:
            return await fetcher(url)
        finally:
            await fetcher.close()

    return asyncio.run(run())


def test_picture_is_fetched_without_cookies_or_compression(server):
    host, context = server
    assert fetch(f"https://{host}/ok", [host], context) == b"identity False"


def test_allowed_number_of_redirects_is_followed(server):
    host, context = server
    assert fetch(f"https://{host}/hop/{MAX_REDIRECTS - 1}", [host], context) == b"identity False"


def test_nothing_is_fetched_without_listed_hosts(server):
    host, context = server
    with pytest.raises(InvalidInputError, match="fetches no pictures"):
        fetch(f"https://{host}/ok", [], context)


def test_listed_host_with_a_private_address_is_refused(server):
    """`localhost` resolves to loopback. The same check stops a name that is rebound."""
    host, context = server
    with pytest.raises(InvalidInputError, match="resolves to"):
        fetch(f"https://{host}/ok", [host], context, is_allowed=is_public)


def test_connection_goes_to_the_address_that_was_checked(server, monkeypatch):
    """A name is resolved once, so its second answer cannot differ from the first."""
    host, context = server
    resolved, checked = [], []
    getaddrinfo = asyncio.BaseEventLoop.getaddrinfo

    async def recording_getaddrinfo(self, name, *args, **options):
        resolved.append(name)
        return await getaddrinfo(self, name, *args, **options)

    def is_allowed(address):
        checked.append(address)
        return True

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", recording_getaddrinfo)
    fetch(f"https://{host}/ok", [host], context, is_allowed=is_allowed)
    # aiohttp also passes the numeric address to getaddrinfo, which cannot lead elsewhere.
    assert [name for name in resolved if name == "localhost"] == ["localhost"]
    assert "127.0.0.1" in checked


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://{host}/ok", "expected https"),
        ("file:///etc/passwd", "expected https"),
        ("ftp://{host}/ok", "expected https"),
        ("//{host}/ok", "expected https"),
        ("ok.png", "expected https"),
        ("https://elsewhere.example/ok", "not fetched from"),
        ("https://localhost/ok", "not fetched from"),
        ("https://user:pass@{host}/ok", "user name or password"),
        ("https://{host}@elsewhere.example/ok", "user name or password"),
        ("https://elsewhere.example\\@{host}/ok", "."),
        ("https://127.0.0.1/ok", "not fetched from"),
        ("https://[::1]/ok", "not fetched from"),
        ("https://2130706433/ok", "not fetched from"),
        ("https://0x7f.1/ok", "not fetched from"),
        ("https://[broken/ok", "not a URL"),
        ("https://{host}/none", "status 404"),
        ("https://{host}/big", "more than 1000 bytes"),
        ("https://{host}/empty", "0 bytes"),
        ("https://{host}/hop/4", "more than 3 redirects"),
        ("https://{host}/to/https://elsewhere.example/ok", "not fetched from"),
        ("https://{host}/to/http://{host}/ok", "expected https"),
        ("https://{host}/to/https://169.254.169.254/latest/meta-data", "not fetched from"),
        ("https://{host}/to/file:///etc/passwd", "expected https"),
    ],
)
def test_url_is_refused(server, url, message):
    host, context = server
    with pytest.raises(InvalidInputError, match=message):
        fetch(url.replace("{host}", host), [host], context)


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_loopback_is_refused_in_every_notation_even_if_listed(server, name):
    host, context = server
    port = host.rpartition(":")[2]
    hosts = [f"{name.strip('[]')}:{port}", f"{name}:{port}"]
    refusal = r"public internet|cannot be fetched|not fetched from"
    with pytest.raises(InvalidInputError, match=refusal):
        fetch(f"https://{name}:{port}/ok", hosts, context, is_allowed=is_public)


def test_slow_host_ends_with_a_deadline_error(server):
    host, context = server
    with pytest.raises(DeadlineExceededError, match=r"within 0.2 s"):
        fetch(f"https://{host}/slow", [host], context, timeout_s=0.2)


def test_certificate_is_checked(server):
    host, _ = server
    with pytest.raises(InvalidInputError, match="Certificate"):
        fetch(f"https://{host}/ok", [host])


def test_error_does_not_repeat_the_query(server):
    host, context = server
    with pytest.raises(InvalidInputError) as caught:
        fetch(f"https://{host}/none?token=SECRET", [host], context)
    assert "SECRET" not in str(caught.value)
