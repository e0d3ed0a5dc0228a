"""Pictures from elsewhere: a real https server on loopback, and every way to point inside."""

import asyncio
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from lensemble.gateway.inputs.remote_pictures import MAX_REDIRECTS, PictureFetcher, is_public
from lensemble_contract.errors import DeadlineExceededError, InvalidInputError

INSIDE = [
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


@pytest.mark.parametrize("address", INSIDE)
def test_address_inside_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_address_outside_is_public(address):
    assert is_public(address)


class Pictures(BaseHTTPRequestHandler):
    """Paths say what comes."""

    def do_GET(self):
        host = self.headers["Host"]
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "hop":
            left = int(rest)
            self.send_response(302)
            self.send_header("Location", f"/hop/{left - 1}" if left else f"https://{host}/ok")
            self.end_headers()
            return
        if kind == "to":
            self.send_response(307)
            self.send_header("Location", rest)
            self.end_headers()
            return
        if kind == "slow":
            self.send_response(200)
            self.end_headers()
            threading.Event().wait(1)
            return
        self.send_response({"ok": 200, "big": 200, "empty": 200}.get(kind, 404))
        self.end_headers()
        if kind == "big":
            self.wfile.write(b"x" * 5000)
        elif kind == "ok":
            said = f"{self.headers['Accept-Encoding']} {'Cookie' in self.headers}"
            self.wfile.write(said.encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    """`localhost:port` of an https server, and a TLS context that trusts it."""
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    server.socket = serving.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"localhost:{server.server_address[1]}", trusting
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(url, hosts, tls=None, *, allowed=lambda _: True, most=1000, timeout_s=5.0):
    async def get():
        remote = Remote(hosts, most, timeout_s, allowed=allowed, ssl=tls)
        try:
            return await remote(url)
        finally:
            await remote.close()
            await asyncio.sleep(0.05)  # TLS says goodbye after `close` (aiohttp, graceful shutdown)

    return asyncio.run(get())


def test_picture_is_fetched(host):
    place, tls = host
    assert fetch(f"https://{place}/ok", [place], tls) == b"identity False"
    assert fetch(f"https://{place}/hop/{REDIRECTS - 1}", [place], tls) == b"identity False"


def test_off_unless_hosts_are_listed(host):
    with pytest.raises(InvalidInputError, match="fetches no pictures"):
        fetch(f"https://{host[0]}/ok", [], host[1])


def test_listed_host_that_leads_inside_is_refused_at_the_address(host):
    """`localhost` resolves to loopback; the same holds for a name that is rebound."""
    place, tls = host
    with pytest.raises(InvalidInputError, match="leads to"):
        fetch(f"https://{place}/ok", [place], tls, allowed=is_public)


def test_address_that_was_checked_is_the_one_connected_to(host, monkeypatch):
    """Each name is resolved once, and what aiohttp connects to is what was checked."""
    place, tls = host
    asked, checked = [], []
    real = asyncio.BaseEventLoop.getaddrinfo

    async def counting(self, name, *args, **more):
        asked.append(name)
        return await real(self, name, *args, **more)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", counting)

    def allowed(address):
        checked.append(address)
        return True

    fetch(f"https://{place}/ok", [place], tls, allowed=allowed)
    # The second look is of a number, which cannot lead elsewhere.
    assert [name for name in asked if name == "localhost"] == ["localhost"]
    assert "127.0.0.1" in checked


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://{host}/ok", "expected https"),
        ("file:///etc/passwd", "expected https"),
        ("ftp://{host}/ok", "expected https"),
        ("//{host}/ok", "expected https"),
        ("ok.png", "expected https"),
        ("https://elsewhere.example/ok", "not among"),
        ("https://localhost/ok", "not among"),
        ("https://user:pass@{host}/ok", "name or password"),
        ("https://{host}@elsewhere.example/ok", "name or password"),
        ("https://elsewhere.example\\@{host}/ok", "."),
        ("https://127.0.0.1/ok", "not among"),
        ("https://[::1]/ok", "not among"),
        ("https://2130706433/ok", "not among"),
        ("https://0x7f.1/ok", "not among"),
        ("https://[broken/ok", "not a URL"),
        ("https://{host}/none", "status 404"),
        ("https://{host}/big", "more than 1000 bytes"),
        ("https://{host}/empty", "0 bytes"),
        ("https://{host}/hop/4", "more than 3 redirects"),
        ("https://{host}/to/https://elsewhere.example/ok", "not among"),
        ("https://{host}/to/http://{host}/ok", "expected https"),
        ("https://{host}/to/https://169.254.169.254/latest/meta-data", "not among"),
        ("https://{host}/to/file:///etc/passwd", "expected https"),
    ],
)
def test_refused(host, url, said):
    place, tls = host
    with pytest.raises(InvalidInputError, match=said):
        fetch(url.replace("{host}", place), [place], tls)


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_loopback_is_refused_however_it_is_written_even_if_listed(host, name):
    port = host[0].rpartition(":")[2]
    listed = f"{name.strip('[]')}:{port}"
    with pytest.raises(InvalidInputError, match=r"public internet|cannot be fetched|not among"):
        fetch(f"https://{name}:{port}/ok", [listed, f"{name}:{port}"], host[1], allowed=is_public)


def test_slow_host_does_not_hold_the_request(host):
    place, tls = host
    with pytest.raises(DeadlineExceededError, match=r"within 0.2 s"):
        fetch(f"https://{place}/slow", [place], tls, timeout_s=0.2)


def test_certificate_is_checked(host):
    with pytest.raises(InvalidInputError, match="Certificate"):
        fetch(f"https://{host[0]}/ok", [host[0]])


def test_query_is_not_repeated_in_errors(host):
    place, tls = host
    with pytest.raises(InvalidInputError) as caught:
        fetch(f"https://{place}/none?token=SECRET", [place], tls)
    assert "SECRET" not in str(caught.value)
