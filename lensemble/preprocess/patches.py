"""Turns pictures into patch rows: decode, resize, cut.

The reference (`Qwen2VLImageProcessor` without resizing) makes float32 rows in which every still
frame stands twice. Here a row is the 768 uint8 values of one 16x16 patch, an eighth of the bytes.
`PatchEmbedding` in the encoder scales them and accounts for the second frame.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from lensemble.profile import ImageProfile
from lensemble.scheduling.slots import Slots
from lensemble_contract.errors import InvalidInputError

if TYPE_CHECKING:
    import torch


class PlannedPicture:
    """A picture whose header was read, and the size at which the model sees it.

    Args:
        data: a JPEG, PNG, WebP, GIF (first frame), BMP or TIFF (first page) file, or such a file
            as a base64 data URL.
        profile: pixel limits and patch size.
        field: name of the picture in error messages.

    Raises:
        InvalidInputError: The picture has too many bytes or pixels, is too thin, would take too
            long to decode, or is not a picture.
    """

    def __init__(self, data: bytes, profile: ImageProfile, field: str = "image") -> None:
        self._profile, self._field = profile, field
        self._picture = open_picture(data, field)
        width, height = self._picture.size
        self._height, self._width = smart_resize(height, width, profile, field)

    @property
    def tokens(self) -> int:
        """Number of tokens that the picture takes in the prompt."""
        return self._height * self._width // self._profile.factor**2

    def patches(
        self, *, scaled: bool = False, slots: Slots | None = None
    ) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
        """Decodes the picture, resizes it, and cuts it into patch rows.

        Args:
            scaled: whether a JPEG that will be reduced to half its size or less is decoded at 1/2,
                1/4 or 1/8 of its size, and then resized the rest of the way. That is much less
                work, but the pixels differ slightly.
            slots: limits how many large pictures are decoded at the same time.

        Returns:
            Patch rows (P, 768) uint8 in the order in which the model reads them (the 2x2 patches of
            one token stand next to each other), and the grid (1, height in patches, width in
            patches).

        Raises:
            InvalidInputError: The picture is damaged, its colours cannot be decoded, or decoding
                takes too long.
            OverloadedError: It is a large picture, and no slot is free.
        """
        if scaled:
            self._picture.draft(self._width, self._height)
        rgb = decode_rgb(self._picture, self._field, slots=slots)
        return cut_patches(resize(rgb, self._height, self._width), self._profile)


def picture_to_patches(
    data: bytes, profile: ImageProfile, field: str = "image", *, scaled: bool = False
) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """Makes the patch rows and the grid of one picture; see `PlannedPicture`."""
    return PlannedPicture(data, profile, field).patches(scaled=scaled)


def smart_resize(
    height: int, width: int, profile: ImageProfile, field: str = "image"
) -> tuple[int, int]:
    """Computes the size at which the model sees a picture.

    Both sides become multiples of 32 pixels, and the area stays within the profile's limits. The
    rule is the reference's (qwen-vl-utils `smart_resize`).

    Args:
        height: height in pixels.
        width: width in pixels.
        profile: pixel limits and patch size.
        field: name of the picture in error messages.

    Returns:
        The new height and width in pixels.

    Raises:
        InvalidInputError: The picture is so thin that its shorter side would become less than 32
            pixels when it is reduced. The reference gets 0 there and fails.
    """
    factor = profile.factor
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > profile.max_pixels:
        beta = math.sqrt(height * width / profile.max_pixels)
        new_height = math.floor(height / beta / factor) * factor
        new_width = math.floor(width / beta / factor) * factor
        if not new_height or not new_width:
            raise InvalidInputError(
                f"{width}x{height} is too thin: reduced to the profile's {profile.max_pixels} "
                f"pixels, its shorter side would have less than {factor} pixels; crop it",
                field=field,
                reason="too_thin",
            )
    elif new_height * new_width < profile.min_pixels:
        beta = math.sqrt(profile.min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width


def resize(rgb: Image.Image, height: int, width: int) -> torch.Tensor:
    """Resizes with PyTorch's antialiased bicubic interpolation.

    It replaces Pillow's `resize` and is four times as fast. Like Pillow up to version 12 and
    torchvision, it resizes the width first and then the height.
    The result differs from theirs by at most two of 255 levels. `tests/parity` bounds that
    difference and its effect on vectors.

    Args:
        rgb: an 8-bit RGB picture.
        height: new height in pixels.
        width: new width in pixels.

    Returns:
        (3, height, width) uint8.
    """
    import torch  # takes seconds; callers that only decode pictures do not need it

    pixels: NDArray[Any] = np.array(rgb)  # a copy, because Pillow's memory is read-only
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)  # channels last in memory: resizes faster
    if tensor.shape[1:] == (height, width):
        return tensor
    resized = torch.nn.functional.interpolate(
        tensor[None], size=(height, width), mode="bicubic", antialias=True
    )
    return resized[0]


def cut_patches(
    pixels: torch.Tensor, profile: ImageProfile
) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """Cuts a resized picture into patch rows.

    Args:
        pixels: (3, H, W) uint8, where H and W are multiples of `profile.factor`.
        profile: patch size and merge size.

    Returns:
        Patch rows (P, 768) uint8 and the grid (1, height in patches, width in patches).
    """
    side, merge = profile.patch_size, profile.merge_size
    patch_rows, patch_columns = pixels.shape[1] // side, pixels.shape[2] // side
    grouped = pixels.reshape(
        3, patch_rows // merge, merge, side, patch_columns // merge, merge, side
    )
    # New order: token row, token column, row and column of the patch in its token, channel, pixel
    # row, pixel column.
    ordered = grouped.permute(1, 4, 2, 5, 0, 3, 6)
    rows = ordered.reshape(patch_rows * patch_columns, 3 * side * side)
    return rows.contiguous().numpy(), (1, patch_rows, patch_columns)
