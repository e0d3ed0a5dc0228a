"""The model processes get ASCII paths: their interpreter knows no other encoding."""

import os
import subprocess
import sys

import pytest

from lensemble.operations.ascii_paths import make_server_folder, with_ascii_paths
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder whose name is not ASCII; it is the working folder, too."""
    folder = tmp_path / "José 用户"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_paths_become_links_to_the_same_places(home, tmp_path):
    (home / "checkpoint").mkdir()
    (home / "clip").mkdir()
    settings = Settings(
        checkpoint=home / "checkpoint",  # the variable's own text
        index="new/index",  # relative, so the working folder counts; it is still to be made
        clip="~/clip",
        sentence="owner/model",
        chat_url="http://127.0.0.1:9/v1",
        chat_model="m",
        describe_prompt="Décris",
    )
    environment = {**settings.to_env(), "HOME": str(home), "LANG": "C", "PATH": f"/bin:{home}"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(home))
        changed = with_ascii_paths(environment, settings, tmp_path / "links")
    for name, target in {
        "LENSEMBLE_CHECKPOINT": home / "checkpoint",
        "LENSEMBLE_INDEX": home / "new/index",
        "LENSEMBLE_CLIP": home / "clip",
        "HOME": home,
    }.items():
        assert changed[name].isascii()
        assert os.path.realpath(changed[name]) == str(target)
        del environment[name], changed[name]
    assert changed == environment


def test_nothing_is_linked_where_all_paths_are_ascii(tmp_path):
    settings = Settings(checkpoint=tmp_path, describe_prompt="Décris")
    environment = {**settings.to_env(), "HOME": str(tmp_path), "NAME": "José"}
    assert with_ascii_paths(environment, settings, tmp_path / "links") == environment
    assert not (tmp_path / "links").exists()


def test_the_servers_folder_is_ascii_wherever_temporary_files_are(home, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(home))
    folder = make_server_folder("lensemble-")
    try:
        assert str(folder).isascii()
    finally:
        folder.rmdir()


def test_settings_are_read_where_the_environment_counts_as_ascii():
    """As in a model process: an embedded interpreter whose file system encoding is ASCII."""
    code = (
        "import sys; from lensemble.settings import Settings\n"
        "assert sys.getfilesystemencoding() == 'ascii', sys.getfilesystemencoding()\n"
        "print(ascii(Settings.from_env().describe_prompt))"
    )
    environment = {
        **os.environ,
        "LENSEMBLE_CHECKPOINT": "/checkpoint",
        "LENSEMBLE_DESCRIBE_PROMPT": "Décris 用户",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert ran.stdout.decode().strip() == ascii("Décris 用户"), ran.stderr.decode()


def test_a_setting_that_is_not_utf8_is_refused_by_name():
    environment = {"LENSEMBLE_CHECKPOINT": "/c", "LENSEMBLE_DESCRIBE_PROMPT": "D\udce9cris"}
    with pytest.raises(InvalidInputError, match="not UTF-8") as caught:
        Settings.from_env(environment)
    assert caught.value.field == "LENSEMBLE_DESCRIBE_PROMPT"
