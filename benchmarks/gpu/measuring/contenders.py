"""Packed encoding, Transformers and sentence-transformers, each on ready inputs.

All start from what their own preprocessing gives, in the CPU's memory, so its time is in no figure,
and end with vectors in the CPU's memory. Each one raises if an item fails.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common.transformers_reference import Inputs, TransformersReference, padded
from benchmarks.common.workloads import INSTRUCTION
from benchmarks.gpu.measuring.context import Step
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble.vectors import Vector
from lensemble_client import Item

# Encodes the items that it was made for: (S, D) float32, in their order.
Contender = Callable[[], Vector]


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


class SentenceModel:
    """sentence-transformers' own support for the model, without its preprocessing in the figures.

    The prompt, the header before the last token and the order of an item's parts are those with
    which its vectors agree with the reference.

    Args:
        step: The step.
    """

    def __init__(self, step: Step) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import (
            Normalize,
            Pooling,
            Transformer,
        )

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
        self._model: Any = SentenceTransformer(modules=modules, device=str(step.device)).eval()
        self._device = step.device

    def contender(self, items: Sequence[Item], batch: int) -> Contender:
        """Returns the library's model on its own padded batches of items of similar length."""
        inputs = []
        for item in items:
            both = {"image": picture(item), "text": item.text}
            inputs.append({name: part for name, part in both.items() if part is not None})
        lengths = [len(self._prepared([one])["input_ids"][0]) for one in inputs]
        parts = by_length(lengths, batch)
        batches = [self._prepared([inputs[n] for n in part]) for part in parts]
        return lambda: in_order([self._vectors(one) for one in batches], parts)

    def _prepared(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        prepared: dict[str, Any] = self._model.preprocess(inputs, prompt=INSTRUCTION)
        return prepared

    @torch.inference_mode()
    def _vectors(self, features: dict[str, Any]) -> Vector:
        on_device = {
            name: value.to(self._device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        vectors: Vector = self._model(on_device)["sentence_embedding"].float().cpu().numpy()
        return vectors


class Models:
    """The models of all contenders; each one is loaded when it is first asked for.

    Args:
        step: The step.
    """

    def __init__(self, step: Step) -> None:
        self._step = step

    @cached_property
    def _encoder(self) -> TorchEngine:
        return self._step.encoder()

    @cached_property
    def _reference(self) -> OnDevice:
        return OnDevice(self._step)

    @cached_property
    def _sentence_model(self) -> SentenceModel:
        return SentenceModel(self._step)

    def packed(self, items: Sequence[Item]) -> Contender:
        """Returns the encoder as it is served; it raises if an item fails."""
        preprocess = Preprocessor(Checkpoint.open(self._step.checkpoint()))
        features = [preprocess(item) for item in items]
        return partial(self._encoder.vectors, features)

    def padded(self, items: Sequence[Item], batch: int) -> Contender:
        """Returns Transformers on padded batches."""
        return self._reference.contender(items, batch)

    def library(self, items: Sequence[Item], batch: int) -> Contender:
        """Returns sentence-transformers."""
        return self._sentence_model.contender(items, batch)


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
