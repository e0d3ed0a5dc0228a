"""Descriptions from a real HTTP server on loopback, and all that may go wrong with it."""

import base64
import io
import logging
import time

import numpy as np
import pytest
from PIL import Image

from lensemble.embedders import chat, describe, model_files
from lensemble.embedders.describe import Describer
from lensemble.embedders.jpegs import LONGEST_SIDE, show
from lensemble.operations.ports import free_port
from lensemble.settings import Settings
from lensemble_client import (
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    Item,
    NotReadyError,
    OverloadedError,
)
from lensemble_client.retry import Retry
from tests import fake_chat_server as chat_server
from tests.fake_chat_server import KEY, MODEL, TOKENS, colour_of, description, plain
from tests.pictures import encode, textured


@pytest.fixture(scope="module")
def server():
    with chat_server.running() as running:
        yield running


@pytest.fixture
def settings(server, tmp_path, monkeypatch):
    server.reset()
    monkeypatch.setattr(chat, "RETRY", Retry(tries=3, first_s=0.01))
    return Settings(
        checkpoint=tmp_path,
        sentence="unused",
        chat_url=server.url,
        chat_model=MODEL,
        chat_key=KEY,
        chat_timeout_s=5,
    )


@pytest.fixture
def describer(settings):
    made = Describer(settings)
    yield made
    made.close()


def shown(*colours, text=None):
    return show(Item(text, tuple(encode(plain(colour)) for colour in colours)))


def test_pictures_are_described_and_texts_pass(describer, server):
    items = [shown("red"), ("only words", ()), shown("blue", "green"), shown("red", text="a hat")]
    found = describer(items)
    said = [description("red"), "", description("blue", "green"), description("red")]
    assert [one.text for one in found] == said
    assert [one.tokens for one in found] == [TOKENS, 0, TOKENS, TOKENS]
    assert len(server.bodies) == 3
    assert set(server.keys) == {f"Bearer {KEY}"}
    body = max(server.bodies, key=lambda one: one["messages"][0]["content"][-1]["text"].__len__())
    assert (body["temperature"], body["max_tokens"]) == (0, 128)
    asked = body["messages"][0]["content"][-1]["text"]
    assert asked.startswith("Describe what is shown")
    assert asked.endswith("Its text: a hat")


def test_same_picture_is_paid_for_once(describer, server, settings):
    both = describer([shown("red"), shown("red")])
    again = describer([shown("red")])
    assert len(server.bodies) == 1
    assert [one.tokens for one in (*both, *again)] == [TOKENS, 0, 0]
    assert {one.text for one in (*both, *again)} == {description("red")}
    describer([shown("red", text="with words")])
    other = Describer(settings.with_changes(describe_prompt="What is it?"))
    other([shown("red")])
    other.close()
    assert len(server.bodies) == 3  # another text, another prompt


def test_what_was_used_longest_ago_is_forgotten(describer, server, monkeypatch):
    monkeypatch.setattr(describe, "REMEMBERED", 2)
    describer([shown("red"), shown("blue")])
    describer([shown("red")])
    describer([shown("green")])
    assert len(server.bodies) == 3
    describer([shown("red")])
    assert len(server.bodies) == 3
    describer([shown("blue")])
    assert len(server.bodies) == 4


def test_many_are_asked_for_together_but_not_too_many(settings, server):
    server.open_together = 3
    describer = Describer(settings.with_changes(chat_concurrency=3))
    found = describer([shown(colour) for colour in chat_server.COLOURS])
    describer.close()
    assert [one.text for one in found] == [description(colour) for colour in chat_server.COLOURS]
    assert server.most_open == 3


@pytest.mark.parametrize(
    ("fault", "error", "said", "times"),
    [
        (500, NotReadyError, "answered with status 500", 3),
        (503, NotReadyError, "answered with status 503", 3),
        (429, OverloadedError, "answered with status 429: too many requests", 3),
        (400, InvalidInputError, r"image: .* answered with status 400", 1),
        (401, InternalError, "answered with status 401; see LENSEMBLE_CHAT_KEY", 1),
        (302, InternalError, "answered with status 302; see LENSEMBLE_CHAT_URL", 1),
        ("garbage", InternalError, "something else than a chat completion", 1),
        ("nothing", InternalError, "something else than a chat completion", 1),
        ("empty", InternalError, "gave an empty description", 1),
    ],
)
def test_each_failure_is_its_items_own(
    describer, server, caplog, settings, fault, error, said, times
):
    caplog.set_level(logging.DEBUG)
    server.failing = {"blue": fault}
    good, bad, other = describer([shown("red"), shown("blue"), shown("green")])
    assert (good.text, other.text) == (description("red"), description("green"))
    assert f"the chat server {settings.chat_url.removesuffix('/v1')} " in str(bad)
    with pytest.raises(error, match=said):
        raise bad
    assert len(server.bodies) == 2 + times
    assert KEY not in str(bad) + caplog.text
    server.failing = {}  # an error is not remembered
    assert describer([shown("blue")])[0].text == description("blue")


def test_a_server_that_hangs_is_given_up(settings, server):
    server.failing = {"blue": "hang"}
    describer = Describer(settings.with_changes(chat_timeout_s=0.5))
    start = time.monotonic()
    good, bad = describer([shown("red"), shown("blue")])
    assert time.monotonic() - start < 5
    assert good.text == description("red")
    assert isinstance(bad, DeadlineExceededError)
    assert "did not answer within 0.5 s" in str(bad)
    describer.close()


def test_no_server_is_named(settings):
    port = free_port()
    describer = Describer(settings.with_changes(chat_url=f"http://127.0.0.1:{port}/v1/"))
    text, picture = describer([("words", ()), shown("red")])
    describer.close()
    assert text.text == ""
    assert isinstance(picture, NotReadyError)
    assert f"the chat server http://127.0.0.1:{port} cannot be reached" in str(picture)


def test_unknown_model_is_a_fault_of_the_service(settings):
    describer = Describer(settings.with_changes(chat_model="no such model"))
    (found,) = describer([shown("red")])
    describer.close()
    assert isinstance(found, InternalError)
    assert "status 404; see LENSEMBLE_CHAT_URL and _CHAT_MODEL" in str(found)


def test_answer_without_end_is_refused(settings, server, monkeypatch):
    monkeypatch.setattr(chat, "MAX_ANSWER_BYTES", 20)
    describer = Describer(settings)
    (found,) = describer([shown("red")])
    describer.close()
    assert "answered with more than 20 bytes" in str(found)


def test_pictures_are_shown_upright_small_and_without_what_the_file_says():
    picture = Image.new("RGB", (2000, 1000), (200, 30, 30))
    picture.paste((30, 30, 200), (0, 0, 1000, 1000))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: what is stored left is seen above
    exif[0x010E] = "where I live"
    data = encode(picture, "JPEG", exif=exif.tobytes())
    _, (jpeg,) = show(Item(images=(data,)))
    seen = Image.open(io.BytesIO(jpeg))
    assert seen.size == (LONGEST_SIDE // 2, LONGEST_SIDE)
    assert not seen.getexif()
    assert b"where I live" in data
    assert b"where I live" not in jpeg
    halves = np.split(np.asarray(seen), 2)
    assert [colour_of(encode(Image.fromarray(half))) for half in halves] == ["blue", "red"]


def test_bad_pictures_and_instructions_are_refused_before_anything_is_paid(server):
    server.reset()
    with pytest.raises(InvalidInputError, match=r"image\[1\]: not a picture"):
        show(Item(images=(encode(textured(8, 8)), b"x")))
    with pytest.raises(InvalidInputError, match="instruction: the embedder 'hybrid' takes none"):
        show(Item("a", instruction="find"))
    assert not server.bodies


def test_data_urls_are_read():
    url = b"data:image/png;base64," + base64.b64encode(encode(plain("blue")))
    assert colour_of(show(Item(images=(url,)))[1][0]) == "blue"


def test_model_that_is_nowhere_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InvalidInputError, match=r"LENSEMBLE_CLIP: no \*.safetensors in"):
        model_files.find(str(tmp_path), "LENSEMBLE_CLIP")
    with pytest.raises(InvalidInputError, match="neither a folder nor a model on the hub"):
        model_files.find("no/such/folder", "LENSEMBLE_CLIP")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NotReadyError, match="the hub did not give it"):
        model_files.find("nobody/nothing", "LENSEMBLE_CLIP")


def test_key_is_in_no_text_of_the_settings(settings):
    assert KEY not in repr(settings) + str(settings)
    assert Settings.from_env(settings.to_env()) == settings
