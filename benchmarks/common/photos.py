"""Real photographs that ship inside Python packages, and altered copies of them.

scikit-image and scikit-learn contain them under free licences (their `data/README.txt` and
`datasets/images/README.txt` say which).
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

# File name -> what the picture shows.
PHOTOS = {
    "astronaut.png": "portrait of an astronaut in an orange suit",
    "brick.png": "a brick wall",
    "camera.png": "a man with a film camera on a tripod",
    "cell.png": "a cell under a microscope",
    "chelsea.png": "a tabby cat",
    "clock_motion.png": "a clock blurred by motion",
    "coffee.png": "a cup of coffee on a saucer",
    "coins.png": "ancient coins on a dark ground",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "hubble_deep_field.jpg": "galaxies seen by the Hubble telescope",
    "ihc.png": "stained tissue under a microscope",
    "moon.png": "the surface of the moon",
    "motorcycle_left.png": "a motorcycle in a workshop",
    "page.png": "a page of a printed book",
    "retina.jpg": "the retina of an eye",
    "rocket.jpg": "a rocket on its launch pad",
    "text.png": "handwritten text on paper",
    "china.jpg": "a pagoda in China",
    "flower.jpg": "a flower",
}


def read_photo(name: str) -> bytes:
    """Returns the encoded bytes of one photograph, as it ships.

    Args:
        name: A key of `PHOTOS`.
    """
    folders = (_package_folder("skimage") / "data", _package_folder("sklearn") / "datasets/images")
    return next(folder / name for folder in folders if (folder / name).is_file()).read_bytes()


def _package_folder(package: str) -> Path:
    """Folder of an installed package. The package is not imported, as that takes seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package!r} is not installed; install the extra `bench`")
    return Path(spec.origin).parent


def write_photos(folder: Path) -> None:
    """Writes all photographs with their descriptions into a folder that `build_index` can read."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, description in PHOTOS.items():
        (folder / name).write_bytes(read_photo(name))
        document = {"file": name, "description": description}
        (folder / name).with_suffix(".json").write_text(json.dumps(document))


def encoded(picture: Image.Image, quality: int = 90) -> bytes:
    """Returns a picture as JPEG bytes."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _cropped(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((width // 10, height // 10, width - width // 10, height - height // 10))


# Kind of change -> function that takes an RGB picture and returns JPEG bytes.
CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded": lambda picture: encoded(picture, quality=40),
    "resized": lambda picture: encoded(ImageOps.scale(picture, 0.6)),
    "cropped": lambda picture: encoded(_cropped(picture)),
    "brightened": lambda picture: encoded(ImageEnhance.Brightness(picture).enhance(1.4)),
}


def changed_copies(data: bytes) -> dict[str, bytes]:
    """Returns one altered copy of a photograph for each of `CHANGES`."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return {name: change(picture) for name, change in CHANGES.items()}
