"""Reads and writes the directory of a TIFF file (TIFF 6.0, BigTIFF): numbers by tag."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lensemble.preprocess.picture_files.picture_file import MAX_PARTS, damaged, too_many_parts

Numbers: TypeAlias = tuple[int | float, ...]

# Type of a value -> the letter of its numbers in `struct`, and how many numbers a value has.
_TYPES = {
    1: ("B", 1), 3: ("H", 1), 4: ("I", 1), 5: ("I", 2), 7: ("B", 1), 11: ("f", 1), 16: ("Q", 1)
}  # fmt: skip
_LONG, _LONG8 = 4, 16
# Entries of the directory. Scientific and geographic files have fewer than a hundred.
_MAX_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class TiffDirectory:
    """The first directory of a TIFF file.

    Attributes:
        order: byte order, `<` or `>`.
        values: tag -> type and numbers, for the tags that were asked for. A rational has two
            numbers.
        tags: all tags of the directory.
    """

    order: str
    values: Mapping[int, tuple[int, Numbers]]
    tags: frozenset[int]

    def numbers(self, tag: int, default: Sequence[int] = ()) -> tuple[int, ...]:
        """The integers of a tag."""
        _, numbers = self.values.get(tag, (0, tuple(default)))
        return tuple(int(number) for number in numbers)

    def number(self, tag: int, default: int) -> int:
        """The first integer of a tag."""
        return (self.numbers(tag) or (default,))[0]


def read_directory(data: bytes, wanted: frozenset[int], field: str) -> TiffDirectory:
    """Reads the first directory of a TIFF file.

    Args:
        data: the file, which begins like a TIFF.
        wanted: tags whose values are read. The others are not: a value may be as long as the file,
            and many may lie at the same place.
        field: name of the picture in error messages.

    Raises:
        InvalidInputError: The directory has too many entries or values.
        struct.error: It is cut off.
    """
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    is_big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    offset, count_letter = ("Q", "Q") if is_big else ("I", "H")
    (position,) = struct.unpack_from(f"{order}{offset}", data, 8 if is_big else 4)
    (count,) = struct.unpack_from(f"{order}{count_letter}", data, position)
    if count > _MAX_ENTRIES:
        raise damaged("TIFF", f"{count} entries in the directory", field)
    position += 8 if is_big else 2
    values, tags = {}, set()
    for _ in range(count):
        tag, kind, length = struct.unpack_from(f"{order}HH{offset}", data, position)
        tags.add(tag)
        if tag in wanted and kind in _TYPES:
            if length > MAX_PARTS:
                raise too_many_parts("strips or tiles", field)
            letter, per_value = _TYPES[kind]
            layout = f"{order}{length * per_value}{letter}"
            inline = 8 if is_big else 4
            place = position + 4 + inline
            if struct.calcsize(layout) > inline:
                (place,) = struct.unpack_from(f"{order}{offset}", data, place)
            values[tag] = kind, struct.unpack_from(layout, data, place)
        position += 20 if is_big else 12
    return TiffDirectory(order, values, frozenset(tags))


def with_directory(
    data: bytes, order: str, values: Mapping[int, tuple[int, Numbers]], field: str
) -> bytes:
    """Returns a TIFF with the same pixels at the same places, and one directory behind them.

    Args:
        data: the file.
        order: byte order of the new directory.
        values: tag -> type and numbers.
        field: name of the picture in error messages.

    Raises:
        InvalidInputError: An offset lies outside the file.
    """
    start = len(data) + len(data) % 2
    place = start + 2 + 12 * len(values) + 4
    entries, behind = b"", b""
    try:
        for tag, (kind, numbers) in sorted(values.items()):
            kind = _LONG if kind == _LONG8 else kind
            letter, per_value = _TYPES[kind]
            value = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
            if len(value) > 4:
                offset = struct.pack(f"{order}I", place + len(behind))
                behind += value + bytes(len(value) % 2)
                value = offset
            head = struct.pack(f"{order}HHI", tag, kind, len(numbers) // per_value)
            entries += head + value.ljust(4, b"\0")
    except struct.error:
        raise damaged("TIFF", "an offset lies outside the file", field) from None
    header = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, start)
    count, end = struct.pack(f"{order}H", len(values)), bytes(4)
    return b"".join((header, data[8:], bytes(len(data) % 2), count, entries, end, behind))
