"""The training data: pictures, their names and keywords."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.emoji.concepts import Picture, load_pictures
from demo.emoji.downloads import Keywords, font_file, keywords
from demo.emoji.render import render


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All pictures and words, including those that are held out.

    Attributes:
        pictures: Pictures that the font can show.
        rendered: Picture id -> (128, 128, 4) uint8 RGBA.
        keywords: Picture id -> language -> keywords.
        font: SHA-256 of the font file, in hexadecimal.
    """

    pictures: list[Picture]
    rendered: Mapping[str, NDArray[np.uint8]]
    keywords: Keywords
    font: str


def load_data(work: Path) -> TrainingData:
    """Loads pictures, names and keywords.

    Args:
        work: Folder in which downloaded packages are kept.

    Raises:
        InvalidInputError: The font or the keywords cannot be downloaded.
    """
    font = font_file(work)
    pictures = load_pictures()
    rendered = render(pictures, font, progress=True)
    shown = [picture for picture in pictures if picture.id in rendered]
    sha256 = hashlib.sha256(font.read_bytes()).hexdigest()
    return TrainingData(shown, rendered, keywords(work, shown), sha256)


def tokenizer_corpus(pictures: Sequence[Picture], words: Keywords) -> list[str]:
    """Returns the texts from which the tokenizer's merges are learnt: names and keywords.

    Args:
        pictures: Pictures that are trained on.
        words: Picture id -> language -> keywords.
    """
    corpus = [name for picture in pictures for name in picture.names.values()]
    for picture in pictures:
        corpus += [word for of_language in words[picture.id].values() for word in of_language]
    return corpus
