"""Descriptions from a real HTTP server on loopback, and its failures."""

import logging

import pytest

from lensemble.embedders import chat_client
from lensemble.embedders import describer as describer_module
from lensemble.embedders.chat_input import ChatInput, to_chat_input
from lensemble.embedders.describer import Describer
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
from tests.fake_chat_server import KEY, MODEL, TOKENS, description, plain
from tests.pictures import encode


@pytest.fixture(scope="module")
def server():
    with chat_server.running() as running:
        yield running


@pytest.fixture
def settings(server, tmp_path, monkeypatch):
    server.reset()
    monkeypatch.setattr(chat_client, "RETRY", Retry(tries=3, first_wait_s=0.01))
    return Settings(
        checkpoint=tmp_path,
        sentence="unused",
        chat_url=server.url,
        chat_model=MODEL,
        chat_key=KEY,
        chat_timeout_s=60,
    )


@pytest.fixture
def describer(settings):
    describer = Describer(settings)
    yield describer
    describer.close()


def item(*colours, text=None):
    return to_chat_input(Item(text, tuple(encode(plain(colour)) for colour in colours)))


def test_pictures_are_described_and_texts_are_not(describer, server):
    results = describer(
        [
            item("red"),
            ChatInput("only words", ()),
            item("blue", "green"),
            item("red", text="a hat"),
        ]
    )
    expected = [description("red"), "", description("blue", "green"), description("red")]
    assert [result.text for result in results] == expected
    assert [result.tokens for result in results] == [TOKENS, 0, TOKENS, TOKENS]
    assert len(server.bodies) == 3
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert {(body["temperature"], body["max_tokens"]) for body in server.bodies} == {(0, 128)}
    question = max((body["messages"][0]["content"][-1]["text"] for body in server.bodies), key=len)
    assert question.startswith("Describe what is shown")
    assert question.endswith("Its text: a hat")


def test_equal_items_are_asked_for_once(describer, server, settings):
    both = describer([item("red"), item("red")])
    again = describer([item("red")])
    assert len(server.bodies) == 1
    assert [result.tokens for result in (*both, *again)] == [TOKENS, 0, 0]
    assert {result.text for result in (*both, *again)} == {description("red")}
    describer([item("red", text="with words")])
    other = Describer(settings.with_changes(describe_prompt="What is it?"))
    other([item("red")])
    other.close()
    assert len(server.bodies) == 3  # a different text, and a different prompt


def test_least_recently_used_description_is_dropped_first(settings, server, monkeypatch):
    monkeypatch.setattr(describer_module, "CACHE_SIZE", 2)
    describer = Describer(settings)
    describer([item("red"), item("blue")])
    describer([item("red")])
    describer([item("green")])
    assert len(server.bodies) == 3
    describer([item("red")])
    assert len(server.bodies) == 3
    describer([item("blue")])
    assert len(server.bodies) == 4
    describer.close()


def test_requests_run_at_the_same_time_up_to_the_limit(settings, server):
    server.open_together = 3
    describer = Describer(settings.with_changes(chat_concurrency=3))
    results = describer([item(colour) for colour in chat_server.COLOURS])
    describer.close()
    expected = [description(colour) for colour in chat_server.COLOURS]
    assert [result.text for result in results] == expected
    assert server.most_open == 3


@pytest.mark.parametrize(
    ("fault", "error", "message", "requests"),
    [
        (500, NotReadyError, "answered with status 500", 3),
        (503, NotReadyError, "answered with status 503", 3),
        (429, OverloadedError, "answered with status 429: too many requests", 3),
        (400, InvalidInputError, r"image: .* answered with status 400", 1),
        (401, InternalError, "answered with status 401; see LENSEMBLE_CHAT_KEY", 1),
        (302, InternalError, "answered with status 302; see LENSEMBLE_CHAT_URL", 1),
        ("garbage", InternalError, "something other than a chat completion", 1),
        ("nothing", InternalError, "something other than a chat completion", 1),
        ("empty", InternalError, "gave an empty description", 1),
    ],
)
def test_failure_is_the_error_of_its_item_only(
    describer, server, caplog, settings, fault, error, message, requests
):
    caplog.set_level(logging.DEBUG)
    server.failing = {"blue": fault}
    good, bad, other = describer([item("red"), item("blue"), item("green")])
    assert (good.text, other.text) == (description("red"), description("green"))
    assert f"the chat server {settings.chat_url.removesuffix('/v1')} " in str(bad)
    with pytest.raises(error, match=message):
        raise bad
    assert len(server.bodies) == 2 + requests
    assert KEY not in str(bad) + caplog.text
    server.failing = {}  # errors are not cached
    assert describer([item("blue")])[0].text == description("blue")


def test_server_that_hangs_makes_a_deadline_error(settings, server):
    server.failing = {"blue": "hang"}
    describer = Describer(settings.with_changes(chat_timeout_s=0.5))
    (error,) = describer([item("blue")])
    assert isinstance(error, DeadlineExceededError)
    assert "did not answer within 0.5 s" in str(error)
    describer.close()


def test_unreachable_server_is_named_in_the_error(settings):
    port = free_port()
    describer = Describer(settings.with_changes(chat_url=f"http://127.0.0.1:{port}/v1/"))
    text, picture = describer([ChatInput("words", ()), item("red")])
    describer.close()
    assert text.text == ""
    assert isinstance(picture, NotReadyError)
    assert f"the chat server http://127.0.0.1:{port} cannot be reached" in str(picture)


def test_unknown_model_is_an_internal_error(settings):
    describer = Describer(settings.with_changes(chat_model="no such model"))
    (error,) = describer([item("red")])
    describer.close()
    assert isinstance(error, InternalError)
    assert "status 404; see LENSEMBLE_CHAT_URL and _CHAT_MODEL" in str(error)


def test_too_long_answer_is_refused(settings, server, monkeypatch):
    monkeypatch.setattr(chat_client, "MAX_ANSWER_BYTES", 20)
    describer = Describer(settings)
    (error,) = describer([item("red")])
    describer.close()
    assert "answered with more than 20 bytes" in str(error)


def test_settings_hide_the_key(settings):
    assert KEY not in repr(settings) + str(settings)
    assert Settings.from_env(settings.to_env()) == settings
