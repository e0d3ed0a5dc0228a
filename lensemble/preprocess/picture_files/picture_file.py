"""A picture file that has been checked, and the limits on the work that it may cause."""

from __future__ import annotations

from dataclasses import dataclass

from lensemble_contract.errors import InvalidInputError

# Chunks, blocks, strips or tiles of one file. Files that use the whole 20 MiB have fewer:
# a GIF has blocks of 255 bytes (82,000 in 20 MiB), PNG writers make chunks of 4 KiB and more.
MAX_PARTS = 100_000
# Pixels times scans. Progressive JPEGs have about 10 scans; the largest picture that is accepted
# (64 million pixels) may have 12.
MAX_PIXEL_SCANS = 800_000_000


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A checked file, without what does not change the pixels of its first picture.

    Attributes:
        format: Pillow's name of the format.
        data: the file for the decoder.
        scans: how often the decoder goes over all pixels: the scans of a JPEG, and in a TIFF also
            what tiles contain beyond its pixels.
        is_bounded: whether pixels, scans and bytes bound the decoder's work and memory. For some
            codecs inside TIFF they do not.
        orientation: EXIF orientation, 1 to 8, for those who apply it. 1 for TIFF: its decoder
            applies the orientation itself.
        grey_bits: bits of a grey sample, for pictures that Pillow decodes to 16-bit grey.
        is_inverted: whether 0 means white in such a picture.
    """

    format: str
    data: bytes
    scans: int = 1
    is_bounded: bool = True
    orientation: int = 1
    grey_bits: int = 16
    is_inverted: bool = False


def too_complex(found: str, remedy: str, field: str) -> InvalidInputError:
    """The error for a file that would cause too much work."""
    return InvalidInputError(f"{found}; {remedy}", field=field, reason="too_complex")


def too_many_parts(parts: str, field: str, limit: int = MAX_PARTS) -> InvalidInputError:
    """The error for a file of more than `limit` parts; `parts` says what they are."""
    return too_complex(f"more than {limit} {parts}", "save the picture anew", field)


def unsupported(found: str, field: str) -> InvalidInputError:
    """The error for pixels that would be decoded wrongly, or not at all."""
    return InvalidInputError(
        f"{found} cannot be decoded to the right colours; save the picture as PNG or JPEG with 8 "
        "bits a channel",
        field=field,
        reason="mode",
    )


def damaged(format_: str, why: str, field: str) -> InvalidInputError:
    """The error for a file that breaks the rules of its format."""
    return InvalidInputError(f"a damaged {format_} file: {why}", field=field, reason="damaged")
