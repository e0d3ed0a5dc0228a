"""Packed encoding against Transformers and sentence-transformers, on ready inputs.

All contenders start from what their own preprocessing gives, in the CPU's memory, so its time is in
no figure. They end with vectors in the CPU's memory. Each one raises if an item fails.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common.transformers_reference import Inputs, TransformersReference, padded
from benchmarks.common.workloads import INSTRUCTION
from benchmarks.gpu.measuring.comparison import smallest_cosine
from benchmarks.gpu.measuring.context import Step, parse_arguments
from benchmarks.gpu.measuring.item_sets import read_set
from lensemble.checkpoint import Checkpoint
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble.vectors import Vector
from lensemble_client import Item

SETS = {"equal": "448x448", "mixed": "mixed"}
ITEMS, _DRY_ITEMS = 64, 4
BATCHES, _DRY_BATCHES = (8, 32), (2,)
# Two vectors of one item, made by different libraries in bf16.
LEAST_COSINE = 0.99

Contender = Callable[[], Vector]


def packed_encoding(step: Step, items: Sequence[Item]) -> Contender:
    """Returns the encoder as it is served."""
    preprocess = Preprocessor(Checkpoint.open(step.checkpoint()))
    features = [preprocess(item) for item in items]
    encoder = step.encoder()
    return lambda: encoder.vectors(features)


class OnDevice(TransformersReference):
    """Transformers' own model on the device and in the precision that are measured.

    Args:
        step: The step.
    """

    def __init__(self, step: Step) -> None:
        super().__init__(step.checkpoint(), torch.float32 if step.dry else torch.bfloat16)
        self.model = self.model.to(step.device)
        self._device = step.device

    def contender(self, items: Sequence[Item], batch: int) -> Contender:
        """Returns Transformers' model on padded batches of items of similar length."""
        inputs = [self.inputs(item.text, picture(item)) for item in items]
        pad_id = self.processor.tokenizer.pad_token_id
        parts = by_length([one["input_ids"].shape[1] for one in inputs], batch)
        batches = [padded([inputs[n] for n in part], pad_id) for part in parts]
        return lambda: in_order([self._vectors(one) for one in batches], parts)

    def _vectors(self, batch: Inputs) -> Vector:
        on_device = {name: tensor.to(self._device) for name, tensor in batch.items()}
        vectors: Vector = self.embed(on_device).cpu().numpy()
        return vectors


def sentence_transformers(step: Step, items: Sequence[Item], batch: int) -> Contender:
    """Returns sentence-transformers' model on its own padded batches of items of similar length.

    The prompt, the header before the last token and the order of an item's parts are those with
    which its vectors agree with the reference.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(
        str(step.checkpoint()),
        model_kwargs={
            "dtype": torch.float32 if step.dry else torch.bfloat16,
            "attn_implementation": "sdpa",
        },
        processing_kwargs={
            "chat_template": {"add_generation_prompt": True},
            "image": {"size": {"shortest_edge": 4096, "longest_edge": 1_843_200}},
        },
    )
    pooling = Pooling(transformer.get_embedding_dimension(), "lasttoken")
    modules = [transformer, pooling, Normalize()]
    model: Any = SentenceTransformer(modules=modules, device=str(step.device)).eval()
    inputs = []
    for item in items:
        both = {"image": picture(item), "text": item.text}
        inputs.append({name: part for name, part in both.items() if part is not None})
    lengths = [len(model.preprocess([one], prompt=INSTRUCTION)["input_ids"][0]) for one in inputs]
    parts = by_length(lengths, batch)
    batches = [model.preprocess([inputs[n] for n in part], prompt=INSTRUCTION) for part in parts]

    @torch.inference_mode()
    def vectors_of(features: dict[str, Any]) -> Vector:
        on_device = {
            name: value.to(step.device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        vectors: Vector = model(on_device)["sentence_embedding"].float().cpu().numpy()
        return vectors

    return lambda: in_order([vectors_of(features) for features in batches], parts)


def picture(item: Item) -> Image.Image | None:
    """Returns the item's picture, decoded; None if it has none."""
    return Image.open(io.BytesIO(item.images[0])).convert("RGB") if item.images else None


def by_length(lengths: Sequence[int], batch: int) -> list[list[int]]:
    """Returns the numbers of the items of each batch, the longest items first."""
    order = sorted(range(len(lengths)), key=lambda n: -lengths[n])
    return [order[begin : begin + batch] for begin in range(0, len(order), batch)]


def in_order(vectors: Sequence[Vector], parts: Sequence[Sequence[int]]) -> Vector:
    """Returns the vectors of all batches, (S, D), in the order of the items."""
    order = np.concatenate([np.asarray(part) for part in parts])
    joined: Vector = np.concatenate(vectors)[np.argsort(order)]
    return joined


def compare(step: Step, name: str, folder: Path) -> None:
    """Adds a row for each contender on one set."""
    items = read_set(folder)[: _DRY_ITEMS if step.dry else ITEMS]
    expected: list[Vector] = []
    rates: dict[str, float] = {}

    def row(contender: str, make: Callable[[], Contender]) -> None:
        def figures() -> dict[str, Any]:
            run = make()
            vectors = run()
            expected.append(vectors)
            cosine = smallest_cosine(vectors, expected[0])
            if not cosine >= LEAST_COSINE:
                raise ValueError(f"other vectors than packed encoding: cosine {cosine}")
            seconds = step.seconds(run, repeats=3, warm_up=1)
            rates[contender] = len(items) / seconds
            return {"items_per_s": round(rates[contender], 1), "min_cosine": cosine}

        step.measure(figures, set=name, contender=contender, items=len(items))

    row("packed", lambda: packed_encoding(step, items))
    reference = OnDevice(step)
    for batch in _DRY_BATCHES if step.dry else BATCHES:
        row(f"padded {batch}", partial(reference.contender, items, batch))
    row("single", partial(reference.contender, items, 1))
    batch = (_DRY_BATCHES if step.dry else BATCHES)[-1]
    row(f"sentence-transformers {batch}", lambda: sentence_transformers(step, items, batch))
    others = [rate for contender, rate in rates.items() if contender != "packed"]
    if "packed" in rates and others:
        step.add(set=name, packed_over_best_peer=round(rates["packed"] / max(others), 2))


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "peers")
    # Its wheel alone (0.33.0) has 336 MB; 64 MiB are carried to the machine.
    step.note(not_run={"vllm": "its wheel of 336 MB does not fit into what is carried along"})
    for name, folder in SETS.items():
        compare(step, name, step.work / "items" / folder)
    step.finish()


if __name__ == "__main__":
    main()
