"""What every engine that turns features into vectors shares: micro-batches, and each item's error.

An engine computes one micro-batch (`Encoding.compute`). What fails together is halved and tried
again, so that only the item at fault fails.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lensemble.encoder import memory, packing, synthetic_items
from lensemble.encoder.batching import is_out_of_memory
from lensemble.encoder.pass_statistics import Work
from lensemble.encoder.pooling import normalize
from lensemble.preprocess.features import Features
from lensemble.profile import Profile
from lensemble.scheduling.deadline import is_over, too_late
from lensemble_contract import contract
from lensemble_contract.errors import InternalError, LensembleError, OverloadedError

logger = logging.getLogger(__name__)

Embedding = NDArray[np.float32]

BUDGETS = {"cpu": (4096, 4096), "cuda": (16_384, 32_768)}
"""Tokens and patches of a micro-batch. On CPUs more only falls out of the cache; see
docs/decisions.md."""

_PING_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Pass:
    """What became of one micro-batch.

    Attributes:
        vectors: (S, D) float32.
        tokens: That the text tower computed.
        patches: That the vision tower computed.
        towers_s: Seconds in the vision and the text tower, as far as they are known.
    """

    vectors: Embedding
    tokens: int
    patches: int
    towers_s: Sequence[float] = ()


class Encoding(ABC):
    """Encodes features with the model of one serving checkpoint.

    Args:
        profile: Of the checkpoint.
        geometry: Its model's numbers.
        batch_tokens: Tokens in one micro-batch.
        batch_patches: Patches in one micro-batch.

    Attributes:
        profile: Of the checkpoint.
        geometry: Its model's numbers.
        work: What was done so far.
        engine: Its name, as of `Settings.engine`.
    """

    engine: str

    def __init__(
        self,
        profile: Profile,
        geometry: packing.Geometry,
        *,
        batch_tokens: int,
        batch_patches: int,
    ) -> None:
        self.profile, self.geometry = profile, geometry
        self._batch_tokens, self._batch_patches = batch_tokens, batch_patches
        self.work = Work()

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights lie."""

    @property
    @abstractmethod
    def precision(self) -> str:
        """Of the weights, such as `float32`."""

    @abstractmethod
    def compute(self, items: list[Features]) -> Pass:
        """One micro-batch.

        Args:
            items: At least one, that `packing.check` has passed.

        Raises:
            Exception: It does not fit into memory, or fails.
        """

    def pack(self, items: Sequence[Features]) -> packing.Packed:
        """Packs items the way that costs this device least.

        On CPUs the prompt's beginning, the same in all items, is computed once: of a short text's
        tokens it is more than half.

        Args:
            items: At least one, that `packing.check` has passed.
        """
        packed = packing.pack(items, self.geometry)
        if len(items) == 1 or self.device.type != "cpu" or self.profile.pooling != "last_token":
            return packed
        return packing.share_prefix(packed, packing.common_prefix(items, self.geometry))

    def release(self) -> None:
        """Lets go of what a failed pass may have left in memory."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def rest(self) -> None:
        """Gives memory back that passes have left, while there is nothing to do."""
        if self.device.type == "cpu":
            memory.give_back()

    def warm_up(self) -> None:
        """Encodes what takes longer the first time: texts and a picture, alone and together."""
        first = synthetic_items.probe(self.geometry)
        for items in (first[:1], first):
            self.encode(items)

    def check(self) -> None:
        """Encodes a text of a few tokens.

        Raises:
            LensembleError: That failed.
        """
        (result,) = self.encode(synthetic_items.texts([_PING_TOKENS], self.geometry))
        if isinstance(result, LensembleError):
            raise result

    def costs(self, item: Features) -> tuple[float, float]:
        """Parts of a micro-batch's budgets that an item takes: of tokens, of patches."""
        return (
            len(item.input_ids) / self._batch_tokens,
            len(item.patches) / self._batch_patches,
        )

    def sound(self, items: Sequence[Features]) -> list[Embedding]:
        """Encodes made-up items, of which none should fail.

        Args:
            items: Any number.

        Returns:
            Vectors (D,) float32, unit length, in order, without those that failed.
        """
        return [result for result in self.encode(items) if not isinstance(result, LensembleError)]

    def vectors(self, items: Sequence[Features]) -> Embedding:
        """Encodes items that are to succeed, all of them.

        Args:
            items: At least one.

        Returns:
            (S, D) float32, unit length.

        Raises:
            LensembleError: Of the first item that has one.
        """
        found = []
        for result in self.encode(items):
            if isinstance(result, LensembleError):
                raise result
            found.append(result)
        return np.stack(found)

    def encode(
        self,
        items: Sequence[Features],
        dimensions: Sequence[int | None] | None = None,
        *,
        deadlines: Sequence[int] | None = None,
    ) -> list[Embedding | LensembleError]:
        """Encodes items; each result is a vector or that item's own error.

        Args:
            items: Any number of items of any size.
            dimensions: Per item, the Matryoshka length; None is the profile's full one.
            deadlines: Per item, as of `contract.DEADLINE`; looked at before each micro-batch.

        Returns:
            For each item, in order: its vector (D,), float32, unit length, or its error.
        """
        wanted = dimensions if dimensions is not None else [None] * len(items)
        results: list[Embedding | LensembleError | None] = [None] * len(items)
        sound: list[int] = []
        for n, item in enumerate(items):
            try:
                self.profile.check_dimensions(wanted[n])
                packing.check(item, self.geometry)
                sound.append(n)
            except LensembleError as error:
                results[n] = error
        parts = packing.micro_batches(
            [items[n] for n in sound], self._batch_tokens, self._batch_patches
        )
        for part in parts:
            indices = [sound[m] for m in part]
            late = [n for n in indices if deadlines is not None and is_over(deadlines[n])]
            for n in late:
                results[n] = too_late(contract.QWEN3_VL.name)
            indices = [n for n in indices if n not in late]
            encoded = self._encode_part([items[n] for n in indices]) if indices else []
            for n, result in zip(indices, encoded, strict=True):
                results[n] = cut(result, wanted[n])
        return cast(list[Embedding | LensembleError], results)  # every place is filled by now

    def _encode_part(self, items: list[Features]) -> list[Embedding | LensembleError]:
        """One micro-batch; halved and tried again if it does not fit or fails."""
        try:
            done = self.compute(items)
            self.work.add(
                passes=1,
                items=len(items),
                tokens=done.tokens,
                patches=done.patches,
                budget=max(done.tokens / self._batch_tokens, done.patches / self._batch_patches),
                **dict(zip(("vision_s", "text_s"), done.towers_s, strict=False)),
            )
            return [
                vector if np.isfinite(vector).all() else InternalError("the vector is not finite")
                for vector in done.vectors
            ]
        except Exception as error:
            if len(items) == 1:
                return [_failed_alone(items[0], error)]
            logger.warning("%d items failed together, halving: %s", len(items), str(error))
        # Outside of the `except`: inside, the error would hold on to the failed pass's tensors.
        self.release()
        half = len(items) // 2
        return self._encode_part(items[:half]) + self._encode_part(items[half:])


def cut(result: Embedding | LensembleError, dimensions: int | None) -> Any:
    """A full vector (D,) cut to its first `dimensions` and normalised again; errors pass."""
    if isinstance(result, LensembleError) or dimensions in (None, len(result)):
        return result
    return normalize(torch.from_numpy(result[None, :dimensions].copy()))[0].numpy()


def _failed_alone(item: Features, error: Exception) -> LensembleError:
    if is_out_of_memory(error):
        return OverloadedError(
            f"an item of {len(item.input_ids)} tokens and {len(item.patches)} patches does not "
            "fit into memory, even alone; send a smaller picture",
            field=contract.IMAGE.name if len(item.patches) else contract.TEXT.name,
        )
    logger.error("an item failed alone", exc_info=error)
    return InternalError(f"encoding failed: {type(error).__name__}")
