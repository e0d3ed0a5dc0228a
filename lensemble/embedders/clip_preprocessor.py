"""Makes CLIP's features of items: token ids, and pixels of the size on which it was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lensemble.embedders.model_files import read_json, refuse_instruction
from lensemble.preprocess.decode_picture import decode_rgb, open_picture
from lensemble.scheduling.slots import Slots
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from lensemble_contract.items import Item

CLIP_VARIABLE = "LENSEMBLE_CLIP"


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """CLIP's features of one item.

    Attributes:
        input_ids: (T,) int32, with the tokens that begin and end a text; (0,) without a text.
        pixels: (n, H, W, 3) uint8, resized and cropped, neither scaled nor normalized.
        tokens: number of tokens: those of the text, and for each picture its patches and the class
            token.
    """

    input_ids: NDArray[np.int32]
    pixels: NDArray[np.uint8]
    tokens: int


class ClipPreprocessor:
    """Makes features as the processor of a checkpoint does.

    Args:
        folder: folder of a CLIP checkpoint in Hugging Face's layout.
        slots: limits how many large pictures are decoded at the same time.

    Raises:
        InvalidInputError: The checkpoint is not one of CLIP, or its parts do not fit together.
    """

    def __init__(self, folder: Path, slots: Slots | None = None) -> None:
        from transformers import AutoTokenizer

        self._slots = slots

        config = read_clip_config(folder)
        text, vision = config.get("text_config", {}), config.get("vision_config", {})
        self._tokenizer = AutoTokenizer.from_pretrained(  # nosec B615
            folder, local_files_only=True, trust_remote_code=False
        )
        longest = int(text.get("max_position_embeddings", 77))
        self.max_tokens = min(longest, self._tokenizer.model_max_length)
        self._processor = load_image_processor(folder)
        self._side = int(vision.get("image_size", 224))
        self._tokens_per_picture = tokens_per_picture(self._side, int(vision.get("patch_size", 32)))

    def __call__(self, item: Item) -> ClipFeatures:
        """Preprocesses one item.

        Raises:
            InvalidInputError: A picture cannot be read or exceeds a limit, the text is too long,
                or there is an instruction.
            OverloadedError: A picture is large, and no slot is free.
        """
        refuse_instruction(item.instruction, contract.CLIP_EMBEDDER)
        ids = self._tokenize(item.text)
        pixels = np.empty((len(item.images), self._side, self._side, 3), np.uint8)
        for n, image in enumerate(item.images):
            field = f"{contract.IMAGE.name}[{n}]"
            picture = open_picture(image, field)
            rgb = decode_rgb(picture, field, upright=True, slots=self._slots)
            pixels[n] = _resize_and_crop(self._processor, rgb)
        return ClipFeatures(ids, pixels, len(ids) + len(pixels) * self._tokens_per_picture)

    def _tokenize(self, text: str | None) -> NDArray[np.int32]:
        if not text:
            return np.empty(0, np.int32)
        # `verbose` would warn of texts that are refused below.
        ids = self._tokenizer(text, truncation=False, verbose=False)["input_ids"]
        if len(ids) > self.max_tokens:
            raise InvalidInputError(
                f"{len(ids)} tokens; the embedder {contract.CLIP_EMBEDDER!r} takes at most "
                f"{self.max_tokens}; shorten it",
                field=contract.TEXT.name,
            )
        return np.array(ids, np.int32)


def tokens_per_picture(image_size: int, patch_size: int) -> int:
    """The number of tokens of a picture: its patches and the class token.

    Args:
        image_size: side of the picture in pixels.
        patch_size: side of a patch in pixels.
    """
    return (image_size // patch_size) ** 2 + 1


def read_clip_config(folder: Path) -> dict[str, Any]:
    """Reads the configuration of a CLIP checkpoint.

    Raises:
        InvalidInputError: The checkpoint is not one of CLIP.
    """
    config = read_json(folder / "config.json", CLIP_VARIABLE)
    if (model_type := config.get("model_type")) != "clip":
        raise InvalidInputError(
            f"a model of type {model_type!r}; expected 'clip'", field=CLIP_VARIABLE
        )
    return config


def load_image_processor(folder: Path) -> Any:
    """Loads Transformers' image processor that uses Pillow, as OpenAI's own code does.

    Raises:
        InvalidInputError: Its pictures do not have the size that the model reads.
    """
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)  # nosec B615
    vision = read_json(folder / "config.json", CLIP_VARIABLE).get("vision_config", {})
    side = vision.get("image_size", 224)
    blank = _resize_and_crop(processor, Image.new("RGB", (3, 2)))
    if blank.shape != (side, side, 3):
        raise InvalidInputError(
            f"its image processor gives pictures of shape {blank.shape}, but its model reads "
            f"({side}, {side}, 3)",
            field=CLIP_VARIABLE,
        )
    return processor


def _resize_and_crop(processor: Any, rgb: Image.Image) -> NDArray[np.uint8]:
    """Returns pixels (H, W, 3) uint8; the encoder scales and normalizes them on its device."""
    pixels = processor(rgb, do_rescale=False, do_normalize=False)["pixel_values"]
    return np.moveaxis(np.asarray(pixels[0]), 0, -1)
