"""The scripts in `examples/` and the commands in docs/api.md, with a real server and gateway."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client
from tests.chat_server import ChatServer, write_chat_checkpoint
from tests.paths import ROOT
from tests.pictures import encode, textured

pytestmark = pytest.mark.e2e
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three pictures, and two files that only look like pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(NAMES):
        (folder / f"{name}.png").write_bytes(encode(textured(64, 64, seed=seed)))
    (folder / "torn.jpg").write_bytes(b"no picture")
    (folder / "empty.webp").touch()
    (folder / "notes.txt").write_text("not a picture, and not named like one")
    return folder


@pytest.fixture(scope="module")
def triton(checkpoint, tmp_path_factory):
    index = tmp_path_factory.mktemp("examples") / "index"
    settings = Settings(checkpoint=checkpoint, index=index, dtype="fp32", writes="on")
    with TritonServer(settings) as running:
        yield running


@pytest.fixture(scope="module")
def url(triton, photos, tmp_path_factory):
    """URL of a gateway with a chat server."""
    folder = tmp_path_factory.mktemp("chat") / "tiny-chat"
    write_chat_checkpoint(folder)
    with ChatServer(folder) as chat:
        settings = GatewaySettings(
            triton=triton.grpc_url,
            metrics=triton.metrics_url,
            port=0,
            chat=chat.url,
            chat_model=chat.model,
            pictures=photos,
            picture_field="file",
        )
        with GatewayServer(settings) as running:
            yield running.url


@pytest.fixture
def direct(triton):
    with Client(triton.grpc_url) as client:
        yield client


def run(name, *arguments, status=0):
    """Runs a script; returns its output, or its error messages if it is expected to fail."""
    ran = subprocess.run(
        [sys.executable, f"examples/{name}.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout if status == 0 else ran.stderr


def test_search_photos(triton, photos, direct):
    arguments = ("--words", "a wave", "--like", photos / "two.png", "--url", triton.grpc_url)
    for _ in range(2):  # the second time, no picture is sent again
        lines = run("search_photos", photos, *arguments).splitlines()
        assert sorted(line.split(":")[1] for line in lines[:2]) == [" empty.webp", " torn.jpg"]
        assert lines[2] == "3 of 5 pictures stored"
        assert direct.stats()["sequence"] == 3
    assert (lines[3], lines[7]) == ("a wave", "two.png")
    for first, hits in ((4, direct.search("a wave")), (8, direct.search(image=photos / "two.png"))):
        assert lines[first : first + 3] == [f"  {hit.score:.4f}  {hit.id}" for hit in hits]
    assert lines[8] == "  1.0000  two.png"
    assert {line.split()[1] for line in lines[4:7]} == {f"{name}.png" for name in NAMES}


def test_embed_many(triton, photos, direct, tmp_path):
    items = [
        {"text": "red"},
        {"text": "a wave", "image": "one.png"},
        {"image": "torn.jpg"},
        {"image": "lost.png"},
        {"text": "blue"},
    ]
    source = photos / "items.jsonl"
    source.write_text("\n".join(map(json.dumps, items)))
    target = tmp_path / "vectors.npy"
    printed = run("embed_many", source, target, "--url", triton.grpc_url)
    table = np.load(target)
    assert np.isnan(table).all(axis=1).tolist() == [False, False, True, True, False]
    for row, image in ((0, None), (1, photos / "one.png"), (4, None)):
        expected = direct.embed(items[row]["text"], image)
        np.testing.assert_allclose(table[row], expected, atol=1e-4)
    assert re.findall(r"item (\d): InvalidInputError: image\[0\]: .", printed) == ["2", "3"]
    assert printed.endswith(f"5 items, {table.shape[1]} dimensions -> {target}\n")


def test_openai_client(url, photos, direct):
    picture, instruction = photos / "one.png", "Find it."
    arguments = (picture, "a wave", "--instruction", instruction, "--url", f"{url}/v1")
    first, *rows = run("openai_client", *arguments).splitlines()
    items = (("a wave", None), (None, picture), ("a wave", picture), ("a wave", picture))
    vectors = [direct.embed(*item, instruction=instruction) for item in items]
    table = np.array([[float(value) for value in row[9:].split()] for row in rows])
    np.testing.assert_allclose(table, np.inner(vectors, vectors), atol=3e-4)
    assert [row[:9].strip() for row in rows] == ["text", "picture", "both", "in parts"]
    assert first.startswith(f"4 vectors of {len(vectors[0])} dimensions, ")

    message = run("openai_client", photos / "torn.jpg", "--url", f"{url}/v1", status=1)
    assert message.startswith("input[1].image[0]: not a picture that can be read")


def test_langchain_search(url, direct, tmp_path):
    texts = ["a red car", "", "a blue boat", "a green tree"]
    (tmp_path / "notes.txt").write_text("\n".join(texts))
    arguments = (tmp_path / "notes.txt", "a blue boat", "-k", 2, "--url", f"{url}/v1")
    lines = run("langchain_search", *arguments).splitlines()
    query = direct.embed("a blue boat")
    scores = {text: float(direct.embed(text) @ query) for text in texts if text}
    best = sorted(scores, key=lambda text: -scores[text])[:2]
    assert [line.split(": ")[1] for line in lines] == best
    assert [float(line.split()[0]) for line in lines] == pytest.approx(
        [scores[text] for text in best], abs=3e-4
    )
    assert lines[0].split("  ")[1] == "3: a blue boat"  # its line number counts empty lines, too


def test_ask_with_sources(url, photos, direct):
    for name in NAMES:  # as `search_photos` does it
        path = photos / f"{name}.png"
        direct.ingest(path.name, image=path, document={"file": path.name})
    arguments = ("a wave", "-k", 2, "--max-tokens", 8, "--url", url)
    answer, *sources = run("ask_with_sources", *arguments).splitlines()
    assert len(answer) > 3
    assert sources == [
        f"[{number}] {hit.score:.4f}  {hit.id}  (with its picture)"
        for number, hit in enumerate(direct.search("a wave", top_k=2), start=1)
    ]
    message = run("ask_with_sources", "", "--url", url, status=1)
    assert message == "error: the item is empty; give a text, a picture, or both\n"


def test_commands_of_api_docs(url):
    """In the order of the page, and word for word except for the port: none is refused."""
    page = (ROOT / "docs" / "api.md").read_text()
    commands = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    assert len(commands) > 15
    for command in commands:
        ran = subprocess.run(
            ["bash", "-c", command.replace("http://127.0.0.1:8080", url)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, command
        if "/metrics" in command:
            assert "lensemble_gateway_requests_total{" in ran.stdout
        else:
            answer = json.loads(ran.stdout)
            assert "error" not in answer and "detail" not in answer, f"{command}\n{ran.stdout}"


def test_every_example_has_a_test_and_is_short():
    tests = Path(__file__).read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert f"def test_{path.stem}(" in tests
        text = path.read_text()
        assert 20 <= len(text.splitlines()) <= 55
        assert f"python examples/{path.name} " in text.split('"""')[1]  # the command that starts it
        assert "    lensemble up --checkpoint " in text.split('"""')[1]
