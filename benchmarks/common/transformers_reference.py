"""The reference to compare with: Transformers' own processor and model, single items or padded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, Qwen3VLModel

from benchmarks.common.workloads import INSTRUCTION

Inputs = dict[str, torch.Tensor]


class TransformersReference:
    """Transformers' own processor and model.

    Args:
        checkpoint: Folder of a checkpoint in Hugging Face's layout.
        dtype: Precision of weights and arithmetic.
    """

    def __init__(self, checkpoint: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = Qwen3VLModel.from_pretrained(checkpoint, dtype=dtype).eval()
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        # The official embedder's limits, so that both servers encode pictures of the same size.
        self.size = {"shortest_edge": 4096, "longest_edge": 1_843_200}

    def inputs(self, text: str | None, image: Image.Image | None) -> Inputs:
        """Returns the processor's tensors for one item."""
        content: list[dict[str, Any]] = []
        if image is not None:
            content.append({"type": "image", "image": image})
        if text is not None:
            content.append({"type": "text", "text": text})
        messages = [
            {"role": "system", "content": [{"type": "text", "text": INSTRUCTION}]},
            {"role": "user", "content": content},
        ]
        prompt = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return dict(
            self.processor(
                text=[prompt],
                images=[image] if image is not None else None,
                images_kwargs={"size": self.size},
                return_tensors="pt",
            )
        )

    @torch.inference_mode()
    def embed(self, inputs: Inputs) -> torch.Tensor:
        """Returns the last-token vectors of right-padded inputs: (B, D) float32, unit length."""
        hidden = self.model(**inputs, use_cache=False).last_hidden_state
        last = inputs["attention_mask"].sum(dim=1) - 1
        # Normalise in fp32: lengths of vectors that were normalised in bf16 are off by 0.1 %.
        pooled = hidden[torch.arange(len(last)), last].float()
        return torch.nn.functional.normalize(pooled, dim=-1)


def padded(batch: Sequence[Inputs], pad_id: int) -> Inputs:
    """Joins the tensors of items into one right-padded batch, as the processor would."""
    longest = max(item["input_ids"].shape[1] for item in batch)
    joined: Inputs = {}
    for name, fill in (("input_ids", pad_id), ("attention_mask", 0), ("mm_token_type_ids", 0)):
        rows = [item[name][0] for item in batch]
        joined[name] = torch.stack(
            [torch.nn.functional.pad(row, (0, longest - len(row)), value=fill) for row in rows]
        )
    for name in ("pixel_values", "image_grid_thw"):
        if parts := [item[name] for item in batch if name in item]:
            joined[name] = torch.cat(parts)
    return joined
