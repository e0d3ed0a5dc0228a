"""Packed encoding against Transformers (padded and single) and sentence-transformers, in one run.

There are two sets of items, of mixed and of equal sizes. All four start from encoded bytes, because
sentence-transformers does its own preprocessing: so the CPU time for pictures is part of all
figures.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common.mixed_items import mixed_items
from benchmarks.common.photos import encoded, read_photo
from benchmarks.common.transformers_reference import TransformersReference, padded
from benchmarks.gpu.step import Step, parse_arguments
from lensemble.pipeline import Pipeline
from lensemble_client import Item

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class OnDevice(TransformersReference):
    """The reference, on the device and in the precision that are measured."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.checkpoint())
        self.model = self.model.to(device=step.device, dtype=TORCH_DTYPES[step.dtype])
        self.device = step.device

    def batch(self, items: list[Item]) -> NDArray[np.float32]:
        """Returns the vectors of one padded batch, (B, D) float32, starting from encoded bytes."""
        inputs = [self.inputs(item.text, picture(item)) for item in items]
        joined = padded(inputs, self.processor.tokenizer.pad_token_id)
        on_device = {name: tensor.to(self.device) for name, tensor in joined.items()}
        vectors: NDArray[np.float32] = self.embed(on_device).float().cpu().numpy()
        return vectors


def picture(item: Item) -> Image.Image | None:
    """Returns the item's picture, decoded; None if it has none."""
    return Image.open(io.BytesIO(item.images[0])).convert("RGB") if item.images else None


def sentence_transformers(step: Step) -> Callable[[list[Item]], object]:
    """Returns `SentenceTransformer.encode` on the same weights; raises if it cannot load them."""
    from sentence_transformers import SentenceTransformer, models

    transformer = models.Transformer(
        str(step.source_checkpoint()),
        model_kwargs={"dtype": TORCH_DTYPES[step.dtype], "attn_implementation": "sdpa"},
    )
    pooling = models.Pooling(transformer.get_word_embedding_dimension(), "lasttoken")
    model = SentenceTransformer(
        modules=[transformer, pooling, models.Normalize()], device=str(step.device)
    )

    def encode(items: list[Item]) -> object:
        inputs: list[Any] = []
        for item in items:
            parts = {"text": item.text, "image": picture(item)}
            inputs.append({name: part for name, part in parts.items() if part is not None})
        return model.encode(inputs, batch_size=len(items))

    encode([Item("warm up")])
    return encode


def compare(step: Step, items: list[Item], name: str) -> dict[str, object]:
    """Returns the items per second of each contender on one set, and the ratio to the best peer."""
    pipeline = Pipeline(step.settings())
    reference = OnDevice(step)
    contenders: dict[str, Callable[[], object]] = {
        "packed": lambda: pipeline.embed(items),
        "padded": lambda: [reference.batch(items[n : n + 8]) for n in range(0, len(items), 8)],
        "single": lambda: [reference.batch([item]) for item in items],
    }
    not_run = {}
    try:
        encode = sentence_transformers(step)
        encode(items[:2])
        contenders["sentence_transformers"] = lambda: encode(items)
    except Exception as error:  # a failure of the installed version is part of the result
        not_run["sentence_transformers"] = f"{type(error).__name__}: {error}"[:300]
    rates = {
        contender: len(items) / step.seconds(run, repeats=3, warm_up=1)
        for contender, run in contenders.items()
    }
    best = max(rate for contender, rate in rates.items() if contender != "packed")
    return {
        "set": name,
        "items": len(items),
        **{f"{contender}_items_per_s": round(rate, 1) for contender, rate in rates.items()},
        "packed_over_best_peer": round(rates["packed"] / best, 2),
        "not_run": not_run,
    }


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__)
    count = 8 if step.dry else 64
    photo = Image.open(io.BytesIO(read_photo("china.jpg")))
    same = encoded(photo.resize((448, 448)))
    sets = {"mixed": mixed_items(count), "equal": [Item(images=(same,))] * count}
    rows = []
    for name, items in sets.items():
        rows.append(compare(step, items, name))
        print(json.dumps(rows[-1]), flush=True)
    step.save("peers", {"rows": rows})


if __name__ == "__main__":
    main()
