"""Unpacks the runs of BMP files (compression RLE8 and RLE4).

Pillow's decoder misreads RLE4, and takes forty times as long as a decoder in C.
"""

from __future__ import annotations

from lensemble.preprocess.picture_files.picture_file import too_complex

# Runs of one file. Encoders put neighbours that differ into one run, so megapixels have fewer.
_MAX_RUNS = 500_000
_END_OF_LINE, _END_OF_PICTURE, _MOVE = 0, 1, 2


def unpack_runs(data: bytes, bits: int, width: int, height: int, field: str) -> bytes:
    """Unpacks the runs to one byte a pixel.

    Args:
        data: the runs.
        bits: 8 or 4.
        width: width in pixels.
        height: height in pixels.
        field: name of the picture in error messages.

    Returns:
        The rows in the order of the file, each padded to a multiple of four bytes. Pixels that no
        run sets are 0.

    Raises:
        InvalidInputError: There are too many runs.
        IndexError: The runs end before the picture does.
    """
    stride = width + -width % 4
    pixels = bytearray(stride * height)
    position = column = row = 0
    for _ in range(_MAX_RUNS):
        if row >= height:
            return bytes(pixels)
        count, value = data[position], data[position + 1]
        position += 2
        if count:  # the same pixel, or two by turns, `count` times
            run = bytes((value,)) if bits == 8 else bytes((value >> 4, value & 15))
            run = (run * (count // len(run) + 1))[:count]
        elif value == _END_OF_LINE:
            column, row = 0, row + 1
            continue
        elif value == _END_OF_PICTURE:
            return bytes(pixels)
        elif value == _MOVE:
            column, row = column + data[position], row + data[position + 1]
            position += 2
            continue
        else:  # `value` pixels as they are, padded to 16 bits
            length = value if bits == 8 else (value + 1) // 2
            run = data[position : position + length]
            if len(run) < length:
                raise IndexError
            if bits == 4:
                run = bytes(half for byte in run for half in (byte >> 4, byte & 15))[:value]
            position += length + length % 2
        run = run[: max(0, width - column)]
        start = row * stride + column
        pixels[start : start + len(run)] = run
        column += len(run)
    raise too_complex(f"more than {_MAX_RUNS} runs", "save the picture as PNG", field)
