"""Result files: sections of several steps, and files that are never half written."""

import json
import threading
from pathlib import Path

import pytest

from benchmarks.gpu.command.plan import PLAN
from benchmarks.gpu.command.result_files import (
    FILES,
    LOG,
    MAX_FILES,
    PROFILE,
    read_section,
    write_section,
)


def test_steps_that_share_a_file_keep_each_others_sections(tmp_path):
    write_section(tmp_path, "smoke", {"rows": [1]})
    write_section(tmp_path, "right", {"rows": [2]})
    write_section(tmp_path, "smoke", {"rows": [1, 3]})
    assert json.loads((tmp_path / "right.json").read_text()) == {
        "smoke": {"rows": [1, 3]},
        "right": {"rows": [2]},
    }
    assert read_section(tmp_path, "right") == {"rows": [2]}


def test_section_of_a_step_that_did_not_run_is_empty(tmp_path):
    assert read_section(tmp_path, "served") == {}
    write_section(tmp_path, "smoke", {"rows": []})
    assert read_section(tmp_path, "right") == {}


def test_background_step_writes_at_the_same_time(tmp_path):
    names = ["preflight", "pictures", "profile", "command"]
    assert len({FILES[name] for name in names}) == 1
    threads = [
        threading.Thread(
            target=lambda name=name: [write_section(tmp_path, name, {"n": n}) for n in range(20)]
        )
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(read_section(tmp_path, name) == {"n": 19} for name in names)


def test_write_that_is_cut_off_leaves_the_old_file(tmp_path, monkeypatch):
    write_section(tmp_path, "peers", {"rows": [1]})
    write_text = Path.write_text

    def write_half(path, text):
        write_text(path, text[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_half)
        with pytest.raises(KeyboardInterrupt):
            write_section(tmp_path, "peers", {"rows": [1, 2]})
    assert read_section(tmp_path, "peers") == {"rows": [1]}


def test_every_step_has_a_file_and_a_run_hands_back_few_enough():
    assert {step.name for step in PLAN} | {"command"} == set(FILES)
    assert len({*FILES.values(), LOG, PROFILE}) <= MAX_FILES
