"""Reads GIF files (GIF89a): the first picture is kept."""

from __future__ import annotations

from lensemble.preprocess.picture_files.picture_file import (
    MAX_PARTS,
    PictureFile,
    damaged,
    too_many_parts,
)

_EXTENSION, _IMAGE, _END = 0x21, 0x2C, b";"
_GRAPHIC_CONTROL = 0xF9
_HEADER, _DESCRIPTOR = 13, 10  # bytes


def read_gif(data: bytes, field: str) -> PictureFile:
    """Checks a GIF file up to the end of its first picture.

    Of the extensions before it, only the graphic control extension is kept: it names the
    transparent colour.

    Raises:
        InvalidInputError: It has too many blocks, or no picture.
        IndexError: It ends before its first picture does.
    """
    walker = _BlockWalker(data, field)
    first = _HEADER + _table_bytes(data[10])
    control = b""
    position = first
    while data[position] != _IMAGE:
        if data[position] != _EXTENSION:
            raise damaged("GIF", "no picture in it", field)
        end = walker.skip(position + 2)
        if data[position + 1] == _GRAPHIC_CONTROL:
            control = data[position:end]
        position = end
    pixels = position + _DESCRIPTOR + _table_bytes(data[position + 9]) + 1
    picture = data[position : walker.skip(pixels)]
    return PictureFile("GIF", data[:first] + control + picture + _END)


class _BlockWalker:
    """Skips sequences of data blocks, and counts the blocks of the whole file."""

    def __init__(self, data: bytes, field: str) -> None:
        self._data, self._field = data, field
        self._blocks = 0

    def skip(self, position: int) -> int:
        """The position after the empty block that ends a sequence.

        Raises:
            IndexError: The file ends before.
        """
        while length := self._data[position]:
            position += 1 + length
            self._blocks += 1
            if self._blocks > MAX_PARTS:
                raise too_many_parts("data blocks", self._field)
        return position + 1


def _table_bytes(flags: int) -> int:
    """Length of the colour table that follows a byte of flags."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
