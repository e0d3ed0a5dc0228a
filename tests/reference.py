"""The reference: Transformers' processor and model with qwen-vl-utils' resizing, item by item.

It follows the official embedder: a chat prompt, pictures resized by qwen-vl-utils, the processor
without resizing, the model without a cache, and pooling after the final norm. It uses nothing of
Lensemble's own preprocessing and encoding.
"""

from __future__ import annotations

import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor, Qwen3VLModel

from lensemble_client import Item


@dataclass
class Reference:
    """One checkpoint with the rules of one profile.

    `load` sets the rules itself and does not read them from a profile.
    """

    model: Qwen3VLModel
    processor: AutoProcessor
    pooling: str
    instruction: str
    generation_prompt: bool
    endoftext: bool
    min_pixels: int
    max_pixels: int

    @classmethod
    def load(cls, folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Reference:
        model = Qwen3VLModel.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        ).eval()
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        processor.tokenizer.padding_side = "right"
        if name == "qwen3-vl-embedding":
            default = "Represent the user's input."
            return cls(model, processor, "last", default, True, True, 4096, 1_843_200)
        return cls(model, processor, "mean", "", False, False, 65_536, 1_843_200)

    def inputs(self, item: Item) -> dict[str, torch.Tensor]:
        # Like `format_model_input` of the official embedder: strip, complete, then fall back.
        instruction = (item.instruction or "").strip()
        if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
            instruction += "."
        instruction = instruction or self.instruction
        content: list[dict[str, object]] = [
            {
                "type": "image",
                "image": Image.open(io.BytesIO(image)),
                "min_pixels": self.min_pixels,
                "max_pixels": self.max_pixels,
            }
            for image in item.images
        ]
        if item.text is not None:
            content.append({"type": "text", "text": item.text})
        messages = [{"role": "user", "content": content}]
        if instruction:
            system = {"role": "system", "content": [{"type": "text", "text": instruction}]}
            messages.insert(0, system)
        text = self.processor.apply_chat_template(
            messages, add_generation_prompt=self.generation_prompt, tokenize=False
        )
        images, _ = process_vision_info(messages, image_patch_size=16)
        inputs = self.processor(
            text=[text], images=images, do_resize=False, padding=True, return_tensors="pt"
        )
        last = inputs["input_ids"][0, -1].item()
        end = self.processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
        assert (last == end) == self.endoftext, "the tokenizer does not fit the profile"
        return dict(inputs)

    @torch.inference_mode()
    def embed(self, item: Item) -> np.ndarray:
        inputs = self.inputs(item)
        hidden = self.model(**inputs, use_cache=False).last_hidden_state[0].float()
        assert bool(inputs["attention_mask"].all())
        pooled = hidden[-1] if self.pooling == "last" else hidden.mean(dim=0)
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()
