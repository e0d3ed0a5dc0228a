"""What README.md says to type, typed: against the real server, word for word but for the ports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.photos import read_photo

pytestmark = pytest.mark.e2e
README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def typed(server, tmp_path):
    """Blocks of one language, with this server's ports, and a folder with `car.webp` to run in."""
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
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_python_snippet_runs(typed, tmp_path):
    (snippet,) = typed("python")
    assert "china.jpg" in run([sys.executable, "-c", snippet], tmp_path)


def test_commands_run(typed, server, tmp_path):
    (block,) = [b for b in typed("bash") if "lensemble search" in b]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    out = run(["bash", "-ec", block], tmp_path, PATH=path, LENSEMBLE_URL=server.grpc_url)
    assert "triton 2.51.0" in out


def test_curl_answers(typed, tmp_path):
    (block,) = [b for b in typed("bash") if "curl" in b]
    out = run(["bash", "-ec", block], tmp_path)
    assert '"error"' not in out
    assert [name in out for name in ('"ids"', '"scores"', '"embedding"')] == [True] * 3


def test_numbers_of_the_limits_are_those_of_the_contract():
    from lensemble_client import contract

    limits = re.search(r"\*\*Limits:\*\*(.*?)\n\n", README, re.DOTALL).group(1)
    for number in (
        contract.MAX_BATCH_SIZE,
        contract.MAX_IMAGES_PER_ITEM,
        contract.MAX_IMAGE_BYTES // 2**20,
        contract.MAX_IMAGE_PIXELS // 10**6,
        contract.MAX_TEXT_BYTES // 2**20,
        contract.MAX_TOP_K,
    ):
        assert f"{number:,} " in limits.replace("\n", " ").replace(".", " ")
