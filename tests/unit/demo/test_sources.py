"""Fonts and keywords: what is said where they cannot be had."""

import json

import pytest

from demo.emoji import sources
from demo.emoji.concepts import LANGUAGES, Picture
from demo.emoji.render import render
from lensemble_client import InvalidInputError


def test_missing_font_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match=r"no font .*x\.ttf.*fonts-noto-color-emoji"):
        render([], tmp_path / "x.ttf")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("false", "`false` failed .*unpack it in"),
        ("no-such-program", "`no-such-program` failed .*unpack it in"),
        ("true", "`true` downloaded nothing"),
    ],
)
def test_failed_download_says_what_to_do(tmp_path, program, said):
    with pytest.raises(InvalidInputError, match=said):
        sources._fetch(tmp_path / "cache", [program], "*.deb")


def test_keywords_are_those_of_the_emoji_without_skin_tone(tmp_path):
    for language in LANGUAGES:
        folder = tmp_path / "keywords" / "package" / "annotations" / language
        folder.mkdir(parents=True)
        words = {"👋": {"default": ["wave", language], "tts": ["waving hand"]}}
        table = {"annotations": {"annotations": words}}
        (folder / "annotations.json").write_text(json.dumps(table))
    pictures = [Picture("1", "👋🏿", "", {}, False), Picture("2", "❤️", "", {}, False)]
    found = sources.keywords(tmp_path, pictures)
    assert found["1"]["es"] == ["wave", "es"]
    assert found["2"] == {language: [] for language in LANGUAGES}
