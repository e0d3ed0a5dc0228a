"""Downloading the font and the keywords: error messages, and which keywords a picture has."""

import json

import pytest

from demo.emoji import downloads
from demo.emoji.concepts import LANGUAGES, Picture
from demo.emoji.render import render
from lensemble_client import InvalidInputError


def test_missing_font_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match=r"no font .*x\.ttf.*fonts-noto-color-emoji"):
        render([], tmp_path / "x.ttf")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("false", "`false` failed .*unpack it in"),
        ("no-such-program", "`no-such-program` failed .*unpack it in"),
        ("true", "`true` downloaded nothing"),
    ],
)
def test_failed_download_says_what_to_do(tmp_path, program, message):
    with pytest.raises(InvalidInputError, match=message):
        downloads._download(tmp_path / "cache", [program], "*.deb")


def test_keywords_are_those_of_the_emoji_without_skin_tone(tmp_path):
    for language in LANGUAGES:
        folder = tmp_path / "keywords" / "package" / "annotations" / language
        folder.mkdir(parents=True)
        words = {"👋": {"default": ["wave", language], "tts": ["waving hand"]}}
        table = {"annotations": {"annotations": words}}
        (folder / "annotations.json").write_text(json.dumps(table))
    pictures = [Picture("1", "👋🏿", "", {}, False), Picture("2", "❤️", "", {}, False)]
    keywords = downloads.keywords(tmp_path, pictures)
    assert keywords["1"]["es"] == ["wave", "es"]
    assert keywords["2"] == {language: [] for language in LANGUAGES}
