"""Picture files that are small and cause much work: scans, chunks, blocks, tags, strips, tiles.

The limits that stop them are in `lensemble/preprocess/picture_files/`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import partial
from itertools import repeat

import numpy as np

from benchmarks.faults.pictures.png import SIGNATURE, chunk, png
from benchmarks.faults.pictures.small_formats import blocks, bmp, gif, jpeg, segment, webp
from benchmarks.faults.pictures.tiff import tiff, with_directory

_BYTE, _SHORT, _LONG = 1, 3, 4
# Slightly more parts than `MAX_PARTS` allows.
_TOO_MANY = 100_001
_MEBIBYTE = 1 << 20
_GREY = np.full((16, 16, 1), 128)


def scan_bomb(scans: int = 900, width: int = 7900, height: int = 7900) -> bytes:
    """A grey progressive JPEG whose last scan is repeated; each scan goes over all pixels.

    Args:
        scans: number of scans.
        width: width in pixels.
        height: height in pixels.
    """
    block_count = -(-width // 8) * -(-height // 8)
    head = b"\xff\xd8" + segment(0xDB, bytes([0]) + b"\x01" * 64)
    head += segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0]))
    # One code of one bit in each table: no difference (DC), and 32,767 blocks without values (AC).
    head += segment(0xC4, bytes([0x00, 1, *[0] * 15, 0x00]))
    head += segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0]))
    dc = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(-(-block_count // 8))
    bits = ("0" + "1" * 14) * -(-block_count // 32_767)
    bits += "0" * (-len(bits) % 8)
    run = bytes(int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    ac = segment(0xDA, bytes([1, 1, 0, 1, 63, 0x01])) + run
    refinement = segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10])) + run
    return head + dc + ac + refinement * max(0, scans - 2) + b"\xff\xd9"


def jpeg_of_segments(count: int = _TOO_MANY, body: bytes = b"Exif\0\0") -> bytes:
    """A JPEG with many EXIF segments, which Pillow joins one by one."""
    return jpeg(np.full((2, 2, 1), 128), before=segment(0xE1, body) * count)


def png_of_chunks(count: int = _TOO_MANY, kind: bytes = b"IDAT") -> bytes:
    """A PNG with many empty chunks before its pixels."""
    return png(_GREY, chunks=repeat(chunk(kind), count))


def png_of_texts(count: int = 64, size: int = _MEBIBYTE) -> bytes:
    """A PNG whose compressed texts are long when they are unpacked."""
    body = b"Comment\0\0" + zlib.compress(bytes(size), 9)
    return png(_GREY, chunks=repeat(chunk(b"zTXt", body), count))


def png_of_profile(size: int = 2 * _MEBIBYTE) -> bytes:
    """A PNG with a colour profile that is long when it is unpacked."""
    return png(_GREY, chunks=[chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(size), 9))])


def gif_of_blocks(count: int = _TOO_MANY) -> bytes:
    """A GIF whose comment is in blocks of one byte, which Pillow joins one by one."""
    comment = b"\x21\xfe" + blocks(bytes(count), 1)
    return gif(_GREY[:, :, 0] - 100, [(n, n, n) for n in range(128)], before=comment)


def webp_of_chunks(count: int = _TOO_MANY) -> bytes:
    """A WebP with many empty chunks behind its picture."""
    picture = webp(16, 16, [(9, 9, 9, 255), (9, 90, 9, 255)])
    body = picture[8:] + (b"JUNK" + bytes(4)) * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_of_tags(tags: int = 1000, size: int = 500_000) -> bytes:
    """A TIFF with long values that all lie at the same place, each of which Pillow copies."""
    values = {n: (_BYTE, b"") for n in range(40_000, 40_000 + tags)}
    data = bytearray(tiff(_GREY, tags=values))
    # The entries say that their values have no length; give all of them the same place.
    position = struct.unpack_from("<I", data, 4)[0] + 2
    for _ in range(struct.unpack_from("<H", data, position - 2)[0]):
        if struct.unpack_from("<H", data, position)[0] >= 40_000:
            struct.pack_into("<II", data, position + 4, size, 8)
        position += 12
    return bytes(data) + bytes(size)


def tiff_of_overlapping_strips(strips: int = 4000, size: int = 200_000) -> bytes:
    """A compressed TIFF whose strips are all the same bytes, most of which unpack to nothing."""
    empty = b"\0\0\0\xff\xff" * (size // 5)
    pixels = b"\x78\x9c" + empty + zlib.compress(bytes(16))[2:]
    values = {
        256: (_LONG, [16]), 257: (_LONG, [strips]), 258: (_SHORT, [8]), 259: (_SHORT, [8]),
        262: (_SHORT, [1]), 273: (_LONG, [8] * strips), 277: (_SHORT, [1]), 278: (_LONG, [1]),
        279: (_LONG, [len(pixels)] * strips),
    }  # fmt: skip
    return with_directory(pixels, values)


def tiff_of_pages(pages: int = 20_000) -> bytes:
    """A TIFF with a long chain of directories, of which the last points to the first."""
    data = tiff(_GREY)
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    directory = data[first : first + 2 + 12 * count]
    next_at = len(directory)
    chained, places = bytearray(data), [first]
    for _ in range(pages):
        places.append(len(chained))
        chained += directory + bytes(4)
    for place, following in zip(places, [*places[1:], first], strict=True):
        struct.pack_into("<I", chained, place + next_at, following)
    return bytes(chained)


def tiff_scan_bomb() -> bytes:
    """A TIFF in which a JPEG with many scans is the only strip."""
    stream = scan_bomb(300, 4000, 4000)
    values = {
        256: (_LONG, [4000]), 257: (_LONG, [4000]), 258: (_SHORT, [8]), 259: (_SHORT, [7]),
        262: (_SHORT, [1]), 273: (_LONG, [8]), 277: (_SHORT, [1]), 278: (_LONG, [4000]),
        279: (_LONG, [len(stream)]),
    }  # fmt: skip
    return with_directory(stream, values)


def tiff_of_huge_tile() -> bytes:
    """A TIFF of 16x16 pixels in a tile of four thousand million."""
    return tiff(_GREY, compression=8, tags={
        322: (_LONG, [65_520]), 323: (_LONG, [65_520]), 324: (_LONG, [8]), 325: (_LONG, [20])
    })  # fmt: skip


def runs_bomb(runs: int = 500_001) -> bytes:
    """A BMP of runs that set nothing, because they lie behind the end of the first row."""
    colours = [(n, n, n) for n in range(64)]
    return bmp(_GREY - 100, 8, palette=colours, compression=1, pixels=b"\1\1" * runs)


def png_of_empty_blocks(count: int = 100_000) -> bytes:
    """A PNG whose pixels are interrupted by blocks of the compressed stream without contents."""
    row = b"\0" + bytes([128] * 16)
    stream = zlib.compressobj()
    body = stream.compress(row) + stream.flush(zlib.Z_FULL_FLUSH) + b"\0\0\0\xff\xff" * count
    body += stream.compress(row * 15) + stream.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0))
    return SIGNATURE + head + chunk(b"IDAT", body) + chunk(b"IEND")


# Name -> function that makes a trap which must be refused.
REFUSED_BOMBS: dict[str, Callable[[], bytes]] = {
    "scans": scan_bomb,
    "scans in a TIFF": tiff_scan_bomb,
    "JPEG segments": jpeg_of_segments,
    "empty pixel chunks": png_of_chunks,
    "chunks": partial(png_of_chunks, kind=b"tEXt"),
    "frames of an animation": partial(png_of_chunks, kind=b"fcTL"),
    "GIF blocks": gif_of_blocks,
    "WebP chunks": webp_of_chunks,
    "overlapping strips": tiff_of_overlapping_strips,
    "tags": partial(tiff_of_tags, 20_000, 64),
    "huge tile": tiff_of_huge_tile,
    "runs": runs_bomb,
    "directory of 2^60 entries": lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 60),
}
# Name -> function that makes a trap which is decoded, because what makes it slow is left out. All
# of them show one grey of 128, or of 28 in a palette.
HARMLESS_BOMBS: dict[str, Callable[[], bytes]] = {
    "compressed texts": png_of_texts,
    "text": lambda: png(_GREY, chunks=[chunk(b"tEXt", b"Comment\0" + b"x" * 3 * _MEBIBYTE)]),
    "colour profile": png_of_profile,
    "EXIF segments": lambda: jpeg_of_segments(20, b"Exif\0\0" + bytes(60_000)),
    "comment": lambda: gif_of_blocks(50_000),
    "tags": tiff_of_tags,
    "pages": tiff_of_pages,
    "empty blocks": png_of_empty_blocks,
}
