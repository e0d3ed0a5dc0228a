"""A server with all three embedders, and the chat server that one of them asks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from tests import fake_chat_server as chat_server
from tests.waiting import DEADLINE_S


@pytest.fixture(scope="package")
def chat() -> Iterator[chat_server.FakeChatServer]:
    """A fake chat server on loopback that names colours."""
    with chat_server.running() as running:
        yield running


@pytest.fixture(scope="package")
def everything(
    checkpoint: Path, clip_checkpoint: Path, minilm: Path, chat: chat_server.FakeChatServer
) -> Iterator[TritonServer]:
    """The real Triton with the three embedders, in fp32."""
    settings = Settings(
        checkpoint=checkpoint,
        dtype="fp32",
        clip=str(clip_checkpoint),
        sentence=str(minilm),
        chat_url=chat.url,
        chat_model=chat_server.MODEL,
        chat_key=chat_server.KEY,
        chat_timeout_s=DEADLINE_S,
    )
    with TritonServer(settings) as running:
        yield running
        assert chat_server.KEY not in running.log_file.read_text(errors="replace")
