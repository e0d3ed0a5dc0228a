"""Exit status of the command line when its output is not read."""

import json
import os
import signal
import subprocess
import sys

import pytest

from lensemble.gateway.access.keys import add
from lensemble_cli import main as command_line
from tests.paths import CHECKPOINT


@pytest.fixture
def unread():
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def run_into(pipe, *arguments, module="lensemble_cli.main"):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=pipe,
        stderr=subprocess.PIPE,
        check=False,
    )


@pytest.mark.parametrize("keys", [1, 10_000])
def test_output_that_nobody_reads_ends_a_command_quietly(unread, tmp_path, keys):
    """A short output is written when the command ends, a long one while it runs."""
    path = tmp_path / "keys.json"
    add(path, "somebody", "read")
    path.write_text(json.dumps({"keys": json.loads(path.read_text())["keys"] * keys}))
    ended = run_into(unread, "keys", "list", "--keys", str(path))
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_help_that_nobody_reads_ends_quietly(unread):
    ended = run_into(unread, "--help")
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_export_tools_end_quietly_too(unread):
    ended = run_into(unread, "verify", str(CHECKPOINT), module="lensemble_export")
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_pipe_that_breaks_elsewhere_is_not_hidden(tmp_path, monkeypatch):
    def broken(arguments):
        raise BrokenPipeError

    monkeypatch.setattr(command_line, "_run", broken)
    with (tmp_path / "output").open("w") as output, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", output)
        with pytest.raises(BrokenPipeError):
            command_line.main([])
