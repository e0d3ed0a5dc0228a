"""Damages pictures, so that a model learns to recognise altered copies.

Pictures are rotated, scaled, squeezed, moved and cropped; put on white, on a colour, a gradient or
blotches; changed in brightness, contrast and saturation, blurred, made noisy, and compressed as
JPEG. Hue is kept and pictures are not mirrored, because names mention colours and directions.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

CLEAN_SHARE = 0.25
JPEG_SHARE = 0.4


def augment(
    rgba: torch.Tensor,
    size: tuple[int, int],
    generator: torch.Generator,
    clean_share: float = CLEAN_SHARE,
) -> torch.Tensor:
    """Damages each picture differently; some are only put on white.

    Args:
        rgba: (N, 4, S, S) uint8, colours multiplied by alpha (`premultiplied`). S is the longer
            side of the result, because the pictures are sampled pixel by pixel.
        size: Height and width of the result in pixels.
        generator: Source of the random choices, on the CPU.
        clean_share: Share of the pictures that are only put on white.

    Returns:
        (N, 3, height, width) uint8.
    """
    clean = _uniform(len(rgba), 0, 1, generator) < clean_share
    moved = _move(rgba.float() / 255, size, clean, generator)
    white = torch.ones(len(rgba), 3, *size)
    background = torch.where(_each(clean), white, _background(len(rgba), size, generator))
    picture = moved[:, :3] + background * (1 - moved[:, 3:])
    picture = torch.where(_each(clean), picture, _change_light(picture, generator))
    result = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    through_jpeg = (_uniform(len(rgba), 0, 1, generator) < JPEG_SHARE) & ~clean
    qualities = torch.randint(15, 95, (len(rgba),), generator=generator)
    for n in through_jpeg.nonzero().flatten().tolist():
        result[n] = _jpeg(result[n], int(qualities[n]))
    return result


def premultiplied(rendered: NDArray[np.uint8], size: int) -> torch.Tensor:
    """Returns rendered pictures, made smaller, with colours multiplied by alpha.

    Args:
        rendered: (N, 128, 128, 4) uint8 RGBA.
        size: Side of the result in pixels.

    Returns:
        (N, 4, size, size) uint8.
    """
    parts = []
    for chunk in np.array_split(rendered, max(1, len(rendered) // 256)):
        pixels = torch.from_numpy(chunk).permute(0, 3, 1, 2).float()
        pixels[:, :3] *= pixels[:, 3:] / 255
        small = functional.interpolate(pixels, size=(size, size), mode="area")
        parts.append(small.round().to(torch.uint8))
    return torch.cat(parts)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _each(per_picture: torch.Tensor) -> torch.Tensor:
    return per_picture[:, None, None, None]


def _move(
    rgba: torch.Tensor,
    size: tuple[int, int],
    clean: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Rotates by up to 20 degrees, scales by 0.65 to 1.25, squeezes by up to 1.25, and moves."""
    count = len(rgba)
    angle = _uniform(count, -20, 20, generator) * math.pi / 180
    scale = torch.exp(_uniform(count, math.log(0.65), math.log(1.25), generator))
    squeeze = torch.exp(_uniform(count, -0.11, 0.11, generator))
    shift = torch.rand(count, 2, generator=generator) * 0.4 - 0.2
    # The source position of each pixel: the inverse of the transformation of the picture.
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    inverse = torch.stack(
        [
            torch.stack([cos * squeeze, -sin * squeeze, shift[:, 0]], dim=1),
            torch.stack([sin / squeeze, cos / squeeze, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    inverse[clean] = torch.eye(2, 3)
    grid = functional.affine_grid(inverse, [count, 4, *size], align_corners=False)
    return functional.grid_sample(rgba, grid, align_corners=False)


def _background(count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Makes backgrounds: a third each are white or one colour, a gradient, and blotches."""
    corners = torch.rand(count, 3, 2, 2, generator=generator)
    kind = _uniform(count, 0, 3, generator)
    plain = corners[:, :, :1, :1].expand(-1, -1, *size)
    white = _uniform(count, 0, 1, generator) < 0.5
    plain = torch.where(_each(white), torch.ones_like(plain), plain)
    gradient = functional.interpolate(corners, size=size, mode="bilinear", align_corners=True)
    cells = torch.rand(count, 3, 6, 6, generator=generator)
    blotches = functional.interpolate(cells, size=size, mode="bicubic", align_corners=False)
    background = torch.where(
        _each(kind < 1), plain, torch.where(_each(kind < 2), gradient, blotches)
    )
    return background.clamp(0, 1)


def _change_light(picture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Changes saturation, contrast and brightness, blurs, and adds noise."""
    count = len(picture)
    grey = picture.mean(dim=1, keepdim=True)
    picture = grey + (picture - grey) * _each(_uniform(count, 0.6, 1.3, generator))
    picture = (picture - 0.5) * _each(_uniform(count, 0.7, 1.2, generator)) + 0.5
    picture = picture + _each(_uniform(count, -0.15, 0.15, generator))
    blurred = functional.avg_pool2d(picture, 3, stride=1, padding=1, count_include_pad=False)
    picture = torch.lerp(picture, blurred, _each(_uniform(count, -0.5, 1, generator).clamp(0, 1)))
    noise = torch.randn(picture.shape, generator=generator)
    return picture + noise * _each(_uniform(count, -0.04, 0.06, generator).clamp(0, 1))


def _jpeg(picture: torch.Tensor, quality: int) -> torch.Tensor:
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
