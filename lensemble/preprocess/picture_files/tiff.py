"""Reads TIFF files (TIFF 6.0): the first page is kept, if its pixels are decoded right."""

from __future__ import annotations

from math import ceil, prod

from lensemble.preprocess.picture_files.picture_file import (
    PictureFile,
    damaged,
    too_complex,
    unsupported,
)
from lensemble.preprocess.picture_files.tiff_directory import (
    TiffDirectory,
    read_directory,
    with_directory,
)

PREFIXES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 320, 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION = 338, 339, 50706
# Orientation, options of the CCITT codecs, predictor, JPEG tables, and what YCbCr means.
_OTHER_TAGS = (274, 292, 293, 317, 347, 529, 530, 531, 532)
_KEPT = frozenset((
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIP_OFFSETS, _SAMPLES,
    _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR, _COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS,
    _TILE_BYTES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, *_OTHER_TAGS,
))  # fmt: skip
_SHORT = 3

_NONE, _JPEG = 1, 7
# CCITT, LZW, Deflate and PackBits: their work is bounded by the bytes and the pixels.
_BOUNDED = (_NONE, 2, 3, 4, 5, 8, 32773, 32946)
# LZMA, Zstandard, WebP.
_COMPRESSIONS = (*_BOUNDED, _JPEG, 34925, 50000, 50001)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_NAMES = {
    0: "grey (white is zero)",
    1: "grey",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELab",
    32803: "colour filter array",
    32844: "LogL",
    32845: "LogLuv",
}
_UNSIGNED, _UNDEFINED = 1, 4
# What extra samples mean: nothing, alpha that the colours are multiplied by, and alpha.
_UNSPECIFIED, _PREMULTIPLIED, _ALPHA = 0, 1, 2
_GREY_BITS = (1, 2, 4, 8, 12, 16)


def read_tiff(data: bytes, field: str) -> PictureFile:
    """Checks the first page of a TIFF file, and leaves out other pages and metadata.

    Raises:
        InvalidInputError: Its pixels are of a kind that is not decoded right, its strips overlap,
            or it is damaged.
    """
    directory = read_directory(data, _KEPT, field)
    if _DNG_VERSION in directory.tags:
        raise unsupported("a raw file of a camera (DNG)", field)
    width, height = directory.number(_WIDTH, 0), directory.number(_HEIGHT, 0)
    if not width or not height:
        raise damaged("TIFF", "no width or height", field)
    compression = directory.number(_COMPRESSION, _NONE)
    if compression not in _COMPRESSIONS:
        raise unsupported(f"a TIFF with compression {compression}", field)
    values = {tag: value for tag, value in directory.values.items() if tag != _SAMPLE_FORMAT}
    bits, photometric = _check_layout(directory, field)
    values[_BITS] = _SHORT, bits
    values[_SAMPLES] = _SHORT, (len(bits),)
    order = directory.order
    is_deep_grey = bits in ((12,), (16,))
    if is_deep_grey:  # Pillow does not invert them
        values[_PHOTOMETRIC] = _SHORT, (_BLACK_IS_ZERO,)
    if bits == (12,):  # packed in the same way in both byte orders, of which Pillow knows one
        order = "<"
    passes = _check_segments(data, directory, width, height, len(bits), compression, field)
    return PictureFile(
        "TIFF",
        with_directory(data, order, values, field),
        passes,
        is_bounded=compression in _BOUNDED,
        grey_bits=bits[0] if is_deep_grey else 16,
        is_inverted=is_deep_grey and photometric == _WHITE_IS_ZERO,
    )


def _check_layout(directory: TiffDirectory, field: str) -> tuple[tuple[int, ...], int]:
    """The bits of each sample, and what the samples mean; refuses what is not decoded right."""
    samples = directory.number(_SAMPLES, 1)
    bits = directory.numbers(_BITS, (1,))[:samples]
    if len(bits) == 1 and samples <= 6:
        bits *= samples
    photometric = directory.number(_PHOTOMETRIC, 0)
    extra = directory.numbers(_EXTRA_SAMPLES)
    formats = set(directory.numbers(_SAMPLE_FORMAT, (_UNSIGNED,)))
    is_planar = directory.number(_PLANAR, 1) == 2 and samples > 1
    name = _NAMES.get(photometric, f"photometric {photometric}")
    described = f"a TIFF of {samples} x {bits[0] if bits else 0} bits, {name}"
    if len(bits) != samples or len(set(bits)) != 1:
        raise unsupported(f"a TIFF whose samples have {bits} bits", field)
    if not formats <= {_UNSIGNED, _UNDEFINED}:
        raise unsupported(f"{described}, signed or floating point", field)
    if not _is_decodable(photometric, bits[0], samples, extra, is_planar):
        suffix = f", extra samples {extra}" if extra else ""
        raise unsupported(f"{described}{suffix}{', in planes' if is_planar else ''}", field)
    if directory.number(_FILL_ORDER, 1) != 1 and bits[0] > 8:
        raise unsupported(f"{described}, with reversed bits", field)
    if photometric == _PALETTE and len(directory.numbers(_COLOUR_MAP)) != 3 << bits[0]:
        raise damaged("TIFF", "the colour map has another length", field)
    return bits, photometric


def _is_decodable(
    photometric: int, bits: int, samples: int, extra: tuple[int, ...], is_planar: bool
) -> bool:
    """Whether Pillow decodes such samples to the right colours (`tests/unit/preprocess`)."""
    if photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and samples == 1:
        return bits in _GREY_BITS and not extra
    if photometric == _BLACK_IS_ZERO:
        return bits == 8 and samples == 2 and extra == (_ALPHA,) and not is_planar
    if photometric == _PALETTE:
        return bits <= 8 and samples == 1 and not extra
    if photometric == _YCBCR:
        return bits == 8 and samples == 3 and not extra
    if bits not in (8, 16) or photometric not in (_RGB, _CMYK):
        return False
    colours = 4 if photometric == _CMYK else 3
    if samples == colours:
        return not extra
    if photometric == _CMYK or samples != 4 or (is_planar and extra != (_ALPHA,)):
        return False
    return extra in ((), (_UNSPECIFIED,), (_PREMULTIPLIED,), (_ALPHA,))


def _check_segments(
    data: bytes,
    directory: TiffDirectory,
    width: int,
    height: int,
    samples: int,
    compression: int,
    field: str,
) -> int:
    """The number of passes over the pixels; refuses strips or tiles that cause too much work."""
    planes = samples if directory.number(_PLANAR, 1) == 2 else 1
    passes = 1
    if _TILE_OFFSETS in directory.values:
        tile = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_HEIGHT, 0)
        if not all(tile):
            raise damaged("TIFF", "tiles without a size", field)
        count = ceil(width / tile[0]) * ceil(height / tile[1])
        passes = ceil(count * prod(tile) / (width * height))
        offsets, sizes = directory.numbers(_TILE_OFFSETS), directory.numbers(_TILE_BYTES)
    else:
        rows = directory.number(_ROWS_PER_STRIP, height) or height
        count = ceil(height / rows)
        offsets, sizes = directory.numbers(_STRIP_OFFSETS), directory.numbers(_STRIP_BYTES)
    if len(offsets) < count * planes:
        raise damaged("TIFF", f"{len(offsets)} of {count * planes} strips or tiles", field)
    if compression == _NONE:
        return passes
    if len(sizes) != len(offsets) or sum(sizes) > len(data):
        raise too_complex("the strips or tiles overlap", "save the picture anew", field)
    if compression == _JPEG:
        scans = (
            data[offset : offset + size].count(b"\xff\xda")
            for offset, size in zip(offsets, sizes, strict=True)
        )
        passes *= max(1, *scans, 1)
    return passes
