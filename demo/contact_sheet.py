"""Draws queries and their hits as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

_TILE, _GAP, _QUERY_WIDTH, _LINE = 72, 8, 230, 14
# Pillow's own font has no accented letters.
_FONT = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
_GREY, _BLACK = (120, 120, 120), (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """One query and its hits.

    Attributes:
        text: Text of the query; empty if there is none.
        picture: Picture of the query; None if there is none.
        hits: Pictures of the hits with their scores, nearest first.
    """

    text: str
    picture: Path | None
    hits: Sequence[tuple[Path, float]]


def contact_sheet(answers: Sequence[Answer], path: Path) -> Path:
    """Draws one row per query: the query, then its hits with their scores.

    Args:
        answers: Queries with their hits.
        path: PNG file to write.

    Returns:
        The path.
    """
    row_height = _TILE + _LINE + _GAP
    width = _QUERY_WIDTH + max(len(a.hits) for a in answers) * (_TILE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _GAP + row_height * len(answers)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(_FONT), _LINE - 2)
    for row, answer in enumerate(answers):
        top = _GAP + row * row_height
        if answer.picture is not None:
            sheet.paste(_tile(answer.picture), (_GAP, top))
        words = answer.text if answer.picture is None else f"+ {answer.text}" * bool(answer.text)
        place = (_GAP, top + (_TILE // 2 if answer.picture is None else _TILE))
        draw.text(place, words, _BLACK, font)
        for n, (picture, score) in enumerate(answer.hits):
            left = _QUERY_WIDTH + n * (_TILE + _GAP)
            sheet.paste(_tile(picture), (left, top))
            draw.text((left, top + _TILE), f"{score:.3f}", _GREY, font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _tile(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB").resize((_TILE, _TILE), Image.Resampling.BICUBIC)
