"""What `make demo` runs, in an empty folder."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.paths import ROOT

pytestmark = pytest.mark.e2e
LANGUAGES = {"en", "es", "fr", "de", "pt", "it"}


def test_demo_finds_words_and_pictures_and_ends_in_one_json_line(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "demo.demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    for query, meant in (("red heart", "red heart"), ("corazón rojo", "red heart")):
        at = lines.index(repr(query))
        assert lines[at + 1].endswith(meant)
    assert any("dog" in line for line in lines[lines.index("'perro'") :][1:4])
    (sheet,) = [line.split(": ")[1] for line in lines if line.startswith("the same in pictures")]
    with Image.open(tmp_path / sheet) as picture:
        assert picture.width > 500
    summary = json.loads(lines[-1])
    assert summary["pictures"] > 3700
    assert summary["triton"] == "2.51.0"
    # tests/e2e/test_emoji.py compares the figures with the published ones.
    assert summary["recall_at_1"] >= 0.3
    assert summary["picture_recall_at_10"] >= 0.85
    for name, least in (("text_recall_at_10", 0.75), ("held_out_text_recall_at_10", 0.3)):
        assert set(summary[name]) == LANGUAGES
        assert min(summary[name].values()) >= least, name
    assert summary["seconds"] > 0
