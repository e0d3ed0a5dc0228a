"""Drawn pictures of coloured shapes, which stand for emoji in the tests of the training."""

import numpy as np
from PIL import Image, ImageDraw

from demo.emoji.captions import FRAMES
from demo.emoji.concepts import Picture

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "bar", "ring")


def draw_shape(colour: str, shape: str) -> np.ndarray:
    """(128, 128, 4) uint8 RGBA."""
    canvas = Image.new("RGBA", (128, 128))
    draw = ImageDraw.Draw(canvas)
    box = (24, 24, 104, 104)
    if shape == "circle":
        draw.ellipse(box, colour)
    elif shape == "square":
        draw.rectangle(box, colour)
    elif shape == "bar":
        draw.rectangle((54, 10, 74, 118), colour)
    else:
        draw.ellipse(box, outline=colour, width=14)
    return np.asarray(canvas)


def picture_named(name: str) -> Picture:
    return Picture(name, "x", name, dict.fromkeys(FRAMES, name), False)


PICTURES = [picture_named(f"{colour} {shape}") for colour in COLOURS for shape in SHAPES]
RENDERED = {picture.id: draw_shape(*picture.id.split()) for picture in PICTURES}
