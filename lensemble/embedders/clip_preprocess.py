"""Items -> what CLIP reads: token ids, and pixels of the size that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lensemble.embedders import model_files
from lensemble.preprocess.decode_picture import apply_exif_orientation, decode_rgb, open_picture
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.items import Item

FIELD = "LENSEMBLE_CLIP"


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """One item, ready for CLIP.

    Attributes:
        input_ids: (T,) int32, with the tokens that begin and end a text; (0,) without one.
        pixels: (n, H, W, 3) uint8, resized and cropped, neither scaled nor normalised.
        tokens: Of the text, and of each picture its patches and the one that stands for it whole.
    """

    input_ids: NDArray[np.int32]
    pixels: NDArray[np.uint8]
    tokens: int


def image_processor(folder: Path) -> Any:
    """Transformers' image processor of a checkpoint: the one on Pillow, as OpenAI's own code.

    Raises:
        InvalidInputError: It does not give pictures of the one size that the model reads.
    """
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)  # nosec B615
    side = model_files.read_json(folder / "config.json", FIELD).get("vision_config", {})
    side = side.get("image_size", 224)
    blank = _pixels(processor, Image.new("RGB", (3, 2)))
    if blank.shape != (side, side, 3):
        raise InvalidInputError(
            f"its image processor gives pictures of shape {blank.shape}, its model reads "
            f"({side}, {side}, 3)",
            field=FIELD,
        )
    return processor


def _pixels(processor: Any, rgb: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8; scale, mean and deviation are left to the device."""
    made = processor(rgb, do_rescale=False, do_normalize=False)["pixel_values"]
    return np.moveaxis(np.asarray(made[0]), 0, -1)


class ClipPreprocessor:
    """Makes features as a checkpoint's own processor does.

    Args:
        folder: Of the CLIP checkpoint, in Hugging Face format.

    Raises:
        InvalidInputError: The checkpoint is not one of CLIP, or its parts do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        config = model_files.read_json(folder / "config.json", FIELD)
        if (kind := config.get("model_type")) != "clip":
            raise InvalidInputError(f"a model of type {kind!r}; expected 'clip'", field=FIELD)
        text, vision = config.get("text_config", {}), config.get("vision_config", {})
        self._tokenizer = AutoTokenizer.from_pretrained(  # nosec B615
            folder, local_files_only=True, trust_remote_code=False
        )
        longest = int(text.get("max_position_embeddings", 77))
        self.max_tokens = min(longest, self._tokenizer.model_max_length)
        self._processor = image_processor(folder)
        self._side = int(vision.get("image_size", 224))
        self._tokens_of_picture = (self._side // int(vision.get("patch_size", 32))) ** 2 + 1

    def __call__(self, item: Item) -> ClipFeatures:
        """Preprocesses one item.

        Raises:
            InvalidInputError: A picture cannot be read or is over a limit, the text is too long,
                or there is an instruction.
        """
        model_files.refuse_instruction(item.instruction, contract.CLIP_EMBEDDER)
        ids = self._ids(item.text)
        pixels = np.empty((len(item.images), self._side, self._side, 3), np.uint8)
        for n, image in enumerate(item.images):
            field = f"{contract.IMAGE.name}[{n}]"
            picture = open_picture(image, field)
            pixels[n] = _pixels(
                self._processor, apply_exif_orientation(picture, decode_rgb(picture, field))
            )
        return ClipFeatures(ids, pixels, len(ids) + len(pixels) * self._tokens_of_picture)

    def _ids(self, text: str | None) -> NDArray[np.int32]:
        if not text:
            return np.empty(0, np.int32)
        # `verbose` would warn of a length that is refused below.
        ids = self._tokenizer(text, truncation=False, verbose=False)["input_ids"]
        if len(ids) > self.max_tokens:
            raise InvalidInputError(
                f"{len(ids)} tokens; the embedder {contract.CLIP_EMBEDDER!r} takes at most "
                f"{self.max_tokens}; shorten it",
                field=contract.TEXT.name,
            )
        return np.array(ids, np.int32)
