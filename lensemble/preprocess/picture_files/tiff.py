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
_OLD_JPEG_STREAM = 513
# Orientation, options of the CCITT codecs, predictor, JPEG tables, what old-style JPEG needs, and
# what YCbCr means.
_OTHER_TAGS = (274, 292, 293, 317, 347, 512, *range(513, 522), 529, 530, 531, 532)
_KEPT = frozenset((
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIP_OFFSETS, _SAMPLES,
    _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR, _COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS,
    _TILE_BYTES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, *_OTHER_TAGS,
))  # fmt: skip
_SHORT = 3

_NONE, _OLD_JPEG, _JPEG = 1, 6, 7
# CCITT, LZW, Deflate, PackBits and JPEG: work and memory are bounded by bytes, pixels and scans.
_BOUNDED = (_NONE, 2, 3, 4, 5, 8, 32773, 32946, _JPEG)
# LZMA, Zstandard, WebP.
_COMPRESSIONS = (*_BOUNDED, _OLD_JPEG, 34925, 50000, 50001)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
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
    scans = _check_segments(data, directory, width, height, len(bits), compression, field)
    return PictureFile(
        "TIFF",
        with_directory(data, order, values, field),
        scans,
        is_bounded=compression in _BOUNDED,
        grey_bits=bits[0] if is_deep_grey else 16,
        is_inverted=is_deep_grey and photometric == _WHITE_IS_ZERO,
    )


def _check_layout(directory: TiffDirectory, field: str) -> tuple[tuple[int, ...], int]:
    """The bits of each sample, and what the samples mean; refuses what is not decoded right."""
    is_old_jpeg = directory.number(_COMPRESSION, _NONE) == _OLD_JPEG
    samples = directory.number(_SAMPLES, 3 if is_old_jpeg else 1)
    bits = directory.numbers(_BITS, (1,))[:samples]
    if len(bits) == 1 and samples <= 6:
        bits *= samples
    photometric = _YCBCR if is_old_jpeg else directory.number(_PHOTOMETRIC, 0)
    extra = directory.numbers(_EXTRA_SAMPLES)
    formats = set(directory.numbers(_SAMPLE_FORMAT, (_UNSIGNED,)))
    is_planar = directory.number(_PLANAR, 1) == 2 and samples > 1
    name = _NAMES.get(photometric, f"photometric {photometric}")
    described = f"a TIFF of {samples} x {bits[0] if bits else 0} bits, {name}"
    if directory.number(_PLANAR, 1) not in (1, 2):
        raise damaged("TIFF", "the planar configuration is neither 1 nor 2", field)
    if len(bits) != samples or len(set(bits)) != 1:
        raise unsupported(f"a TIFF whose samples have {bits[:6]} bits", field)
    if not formats <= {_UNSIGNED, _UNDEFINED}:
        raise unsupported(f"{described}, signed or floating point", field)
    if not _is_decodable(photometric, bits[0], samples, extra, is_planar):
        suffix = f", extra samples {extra[:6]}" if extra else ""
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
    if photometric in (_RGB, _CMYK):
        return bits in (8, 16) and _is_decodable_colour(
            samples - (4 if photometric == _CMYK else 3), photometric, bits, extra, is_planar
        )
    if samples == 1:
        deepest = 8 if photometric == _PALETTE else 16
        kinds = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE)
        return photometric in kinds and bits in _GREY_BITS and bits <= deepest and not extra
    if bits != 8:
        return False
    if photometric in (_YCBCR, _LAB):
        return samples == 3 and not extra and not (is_planar and photometric == _LAB)
    if photometric == _PALETTE:
        return samples == 2 and extra in ((_UNSPECIFIED,), (_ALPHA,)) and not is_planar
    decoded = (_UNSPECIFIED,) if is_planar else (_ALPHA,)
    return photometric == _BLACK_IS_ZERO and samples == 2 and extra == decoded


def _is_decodable_colour(
    more: int, photometric: int, bits: int, extra: tuple[int, ...], is_planar: bool
) -> bool:
    """The same for RGB and CMYK, with `more` samples beside the colours."""
    if more == 0:
        return not extra
    if photometric == _RGB and more == 1:
        return extra in ((), (_UNSPECIFIED,), (_PREMULTIPLIED,), (_ALPHA,))
    if bits != 8 or len(extra) != more or not 1 <= more <= 3 or any(extra[1:]):
        return False
    if photometric == _CMYK:
        return more <= 2 and extra[0] == _UNSPECIFIED
    return extra[0] == _UNSPECIFIED or (extra[0] in (_PREMULTIPLIED, _ALPHA) and not is_planar)


def _check_segments(
    data: bytes,
    directory: TiffDirectory,
    width: int,
    height: int,
    samples: int,
    compression: int,
    field: str,
) -> int:
    """Returns the scans; refuses strips or tiles that would cause too much work."""
    planes = samples if directory.number(_PLANAR, 1) == 2 else 1
    scans = 1
    if _TILE_OFFSETS in directory.values:
        tile = directory.number(_TILE_WIDTH, 0), directory.number(_TILE_HEIGHT, 0)
        if not all(tile):
            raise damaged("TIFF", "tiles without a size", field)
        count = ceil(width / tile[0]) * ceil(height / tile[1])
        scans = ceil(count * prod(tile) / (width * height))
        offsets, sizes = directory.numbers(_TILE_OFFSETS), directory.numbers(_TILE_BYTES)
    else:
        rows = directory.number(_ROWS_PER_STRIP, height) or height
        count = ceil(height / rows)
        offsets, sizes = directory.numbers(_STRIP_OFFSETS), directory.numbers(_STRIP_BYTES)
    if compression == _OLD_JPEG and _OLD_JPEG_STREAM in directory.values:
        return scans
    if len(offsets) < count * planes:
        raise damaged("TIFF", f"{len(offsets)} of {count * planes} strips or tiles", field)
    if compression == _NONE:
        return scans
    if len(sizes) != len(offsets) or sum(sizes) > len(data):
        raise too_complex("the strips or tiles overlap", "save the picture anew", field)
    if compression == _JPEG:
        counts = (
            data[offset : offset + size].count(b"\xff\xda")
            for offset, size in zip(offsets, sizes, strict=True)
        )
        scans *= max(1, *counts, 1)
    return scans
