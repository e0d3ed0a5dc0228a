"""The commands and snippets of README.md, with a real server; only the ports differ."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common.photos import read_photo
from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client
from tests.paths import ROOT

pytestmark = pytest.mark.e2e
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def server(checkpoint, index_folder, tmp_path_factory):
    """A server that accepts writes, with the one item that README names."""
    folder = shutil.copytree(index_folder, tmp_path_factory.mktemp("readme") / "index")
    settings = Settings(checkpoint=checkpoint, index=folder, dtype="fp32", writes="on")
    with TritonServer(settings) as running:
        with Client(running.grpc_url) as client:
            client.ingest("1f697", "automobile", document={"held_out": False})
        yield running


@pytest.fixture
def code_blocks(server, tmp_path):
    """Function from a language to its code blocks in README, with the ports of this server."""
    (tmp_path / "car.webp").write_bytes(read_photo("china.jpg"))

    def blocks(language: str) -> list[str]:
        return [
            block.replace("grpc://127.0.0.1:8001", server.grpc_url).replace(
                "http://127.0.0.1:8000", server.http_url
            )
            for block in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
        ]

    return blocks


def run(command: list[str], folder: Path, **environment: str) -> str:
    ran = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_python_snippets_run(code_blocks, server, tmp_path):
    searching, writing = code_blocks("python")
    writing = writing.replace("Client()", f"Client({server.grpc_url!r})")
    out = run([sys.executable, "-c", f"{searching}\n{writing}"], tmp_path)
    assert "china.jpg" in out


def test_commands_run(code_blocks, server, tmp_path):
    (block,) = [b for b in code_blocks("bash") if "lensemble search" in b]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    out = run(["bash", "-ec", block], tmp_path, PATH=path, LENSEMBLE_URL=server.grpc_url)
    assert "triton 2.51.0" in out


def test_gateway_answers(code_blocks, server, tmp_path):
    (block,) = [b for b in code_blocks("bash") if "/v1/embeddings" in b]
    (making_the_key,) = [b for b in code_blocks("bash") if "lensemble keys add" in b]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    key = run(["bash", "-ec", f'{making_the_key}\nprintf %s "$KEY"'], tmp_path, PATH=path)
    settings = GatewaySettings(
        triton=server.grpc_url, metrics=server.metrics_url, port=0, keys=tmp_path / "keys.json"
    )
    with GatewayServer(settings) as gateway:
        block = block.replace("http://127.0.0.1:8080", gateway.url)
        answer = json.loads(run(["bash", "-ec", block], tmp_path, KEY=key))
    assert [len(entry["embedding"]) for entry in answer["data"]] == [64, 64]


def test_curl_answers(code_blocks, tmp_path):
    (block,) = [b for b in code_blocks("bash") if "/infer" in b]
    out = run(["bash", "-ec", block], tmp_path)
    assert '"error"' not in out
    assert [name in out for name in ('"ids"', '"scores"', '"embedding"')] == [True] * 3
