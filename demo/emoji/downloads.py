"""Downloads the font and the keywords with the machine's package tools, and keeps them in a cache.

- Debian's `fonts-noto-color-emoji`: Noto Color Emoji, SIL Open Font License 1.1.
- npm's `cldr-annotations-full`: keywords of emoji in many languages, Unicode License v3.
- PyPI's `emoji`, which is installed: names of emoji, BSD; the names come from CLDR too.
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

# Picture id -> language -> other words for it.
Keywords = dict[str, dict[str, list[str]]]


def font_file(cache: Path) -> Path:
    """Returns the path of NotoColorEmoji.ttf: installed, or unpacked into the cache.

    Args:
        cache: Folder in which packages are kept.

    Raises:
        InvalidInputError: The font is not installed and cannot be downloaded.
    """
    installed, unpacked = Path("/") / _FONT, cache / "font" / _FONT
    if installed.is_file():
        return installed
    if not unpacked.is_file():
        package = _download(cache / "font", ["apt-get", "download", FONT_PACKAGE], "*.deb")
        _run(["dpkg", "-x", package.name, "."], cache / "font")
    return unpacked


def keywords(cache: Path, pictures: Sequence[Picture]) -> Keywords:
    """Returns CLDR's keywords of pictures.

    A picture with a skin tone has the keywords of the emoji without it.

    Args:
        cache: Folder in which packages are kept.
        pictures: Pictures.

    Raises:
        InvalidInputError: The package cannot be downloaded.
    """
    folder = cache / "keywords"
    if not (folder / "package").is_dir():
        archive = _download(folder, ["npm", "pack", "--silent", KEYWORDS_PACKAGE], "*.tgz")
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


def _download(folder: Path, command: list[str], pattern: str) -> Path:
    """Runs a package tool in an empty folder and returns the file that it downloaded."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run(command, folder)
    files = sorted(folder.glob(pattern))
    if not files:
        raise InvalidInputError(f"`{' '.join(command)}` downloaded nothing", field="work")
    return files[0]


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InvalidInputError(
            f"`{' '.join(command)}` failed ({error}); download the package by other means and "
            f"unpack it in {str(folder)!r}",
            field="work",
        ) from error
