"""Where pictures and words come from: fetched by the machine's own package tools, kept in a cache.

- Debian's `fonts-noto-color-emoji`: Noto Color Emoji, SIL Open Font License 1.1.
- npm's `cldr-annotations-full`: keywords of emoji in many languages, Unicode License v3.
- PyPI's `emoji` (installed): names of emoji, BSD; they are CLDR's too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from demo.emoji.concepts import LANGUAGES, SKIN_TONES, Picture
from lensemble_contract.errors import InvalidInputError

FONT_PACKAGE = "fonts-noto-color-emoji"
KEYWORDS_PACKAGE = "cldr-annotations-full@48.2.0"

_FONT = Path("usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")

Keywords = dict[str, dict[str, list[str]]]
"""Picture id -> language -> other words for it."""


def font_file(cache: Path) -> Path:
    """NotoColorEmoji.ttf: the installed one, or one unpacked into the cache.

    Args:
        cache: Where the package is kept.

    Raises:
        InvalidInputError: It is not installed and cannot be fetched.
    """
    installed, unpacked = Path("/") / _FONT, cache / "font" / _FONT
    if installed.is_file():
        return installed
    if not unpacked.is_file():
        package = _fetch(cache / "font", ["apt-get", "download", FONT_PACKAGE], "*.deb")
        _run(["dpkg", "-x", package.name, "."], cache / "font")
    return unpacked


def keywords(cache: Path, pictures: Sequence[Picture]) -> Keywords:
    """CLDR's keywords of pictures.

    A skin tone adds none: its picture has those of the emoji without.

    Args:
        cache: Where the package is kept.
        pictures: Which.

    Raises:
        InvalidInputError: The package cannot be fetched.
    """
    folder = cache / "keywords"
    if not (folder / "package").is_dir():
        archive = _fetch(folder, ["npm", "pack", "--silent", KEYWORDS_PACKAGE], "*.tgz")
        with tarfile.open(archive) as opened:
            opened.extractall(folder / "part", filter="data")
        (folder / "part" / "package").rename(folder / "package")
    tables = {}
    for language in LANGUAGES:
        path = folder / "package" / "annotations" / language / "annotations.json"
        tables[language] = json.loads(path.read_text("utf-8"))["annotations"]["annotations"]
    plain = dict.fromkeys(map(ord, (*SKIN_TONES, "\ufe0f")))
    return {
        picture.id: {
            language: table.get(picture.emoji.translate(plain), {}).get("default", [])
            for language, table in tables.items()
        }
        for picture in pictures
    }


def _fetch(folder: Path, command: list[str], pattern: str) -> Path:
    """Runs a package tool in an empty folder and returns what it downloaded."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run(command, folder)
    found = sorted(folder.glob(pattern))
    if not found:
        raise InvalidInputError(f"`{' '.join(command)}` downloaded nothing", field="work")
    return found[0]


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InvalidInputError(
            f"`{' '.join(command)}` failed ({error}); fetch it by other means and unpack it in "
            f"{str(folder)!r}",
            field="work",
        ) from error
