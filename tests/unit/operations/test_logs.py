import io
import json
import logging
import sys
from datetime import datetime, timedelta, timezone

import pytest

from lensemble.operations import logs
from lensemble.operations.logs import JsonFormatter, LogRelay, triton_message_as_json

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=timezone(timedelta(hours=2)))
READY = 'I1126 10:30:45.123456 77 server.cc:676] "started"'
FAILED = "E1126 10:30:46.000001 77 model.py:33] encode: request r-1: [internal] it failed"


def test_tritons_message_becomes_json():
    assert json.loads(triton_message_as_json(READY, NOW)) == {
        "time": "2026-11-26T08:30:45.123Z",
        "level": "INFO",
        "source": "server.cc:676",
        "message": "started",
        "pid": 77,
    }


def test_request_id_has_its_own_key():
    entry = json.loads(triton_message_as_json(FAILED, NOW))
    assert entry["request_id"] == "r-1"
    assert entry["level"] == "ERROR"


@pytest.mark.parametrize("text", ["no head", "", "E1126 nonsense", 'I1126 "', "\x00\x1b[31m"])
def test_other_lines_are_kept(text):
    assert json.loads(triton_message_as_json(text, NOW))["message"] == text


def test_message_of_several_lines_stays_one_json_line():
    text = triton_message_as_json(FAILED + '\n{"level": "INFO", "message": "all is well"}', NOW)
    assert "\n" not in text
    assert json.loads(text)["message"].endswith('"all is well"}')


def test_own_messages_become_json():
    try:
        raise ValueError("inside")
    except ValueError:
        record = logging.LogRecord("ours", 30, "x.py", 1, "a %s", ("word",), sys.exc_info())
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["level"], entry["source"], entry["message"]) == ("WARNING", "ours", "a word")
    assert "ValueError: inside" in entry["exception"]


def messages(out):
    return [json.loads(line)["message"] for line in out.getvalue().splitlines()]


@pytest.fixture
def relay(tmp_path):
    out = io.StringIO()
    relay = LogRelay(lambda: tmp_path / "log", out)
    yield relay, tmp_path / "log", out
    relay.close()


def write(path, text):
    with path.open("a") as file:
        file.write(text)


def test_relay_joins_the_lines_of_one_message(relay):
    relaying, path, out = relay
    relaying.relay()  # the file does not exist yet
    write(path, f"{FAILED}\nTraceback\n  line\n{READY}\n")
    relaying.relay()
    relaying.relay()  # no further line follows
    assert messages(out) == [
        "encode: request r-1: [internal] it failed\nTraceback\n  line",
        "started",
    ]


def test_relay_waits_for_the_end_of_a_line(relay):
    relaying, path, out = relay
    write(path, READY[:20])
    relaying.relay()
    assert messages(out) == []
    write(path, READY[20:] + "\n")
    relaying.relay()
    relaying.relay()
    assert messages(out) == ["started"]


def test_relay_goes_on_with_the_next_servers_file(relay):
    relaying, path, out = relay
    write(path, READY + "\n")
    relaying.relay()
    write(path, FAILED + "\n")  # the old server's last message
    path.rename(path.with_name("old"))
    write(path, READY + "\n")
    relaying.relay()
    relaying.relay()
    assert len(messages(out)) == 3


def test_relay_truncates_a_large_file_without_losing_messages(relay, monkeypatch):
    monkeypatch.setattr(logs, "MAX_BYTES", 1000)
    relaying, path, out = relay
    for _ in range(20):
        write(path, f"{READY}\n" * 10)
        relaying.relay()
    relaying.relay()
    assert messages(out) == ["started"] * 200
    assert path.stat().st_size < 2000


def test_relay_writes_the_rest_at_the_end(relay):
    relaying, path, out = relay
    with relaying:
        write(path, READY + "\n")
        relaying.relay()
        write(path, FAILED + "\n")
    assert len(messages(out)) == 2
