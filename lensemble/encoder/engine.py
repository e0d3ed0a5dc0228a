"""What all engines share: micro-batches, deadlines, and an error for each item that fails.

An engine runs one micro-batch at a time (`Engine.run_pass`). On GPUs the next one is prepared
meanwhile (`micro_batches.started_encoding`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lensemble.encoder.freed_memory import return_freed_memory
from lensemble.encoder.input_spec import InputSpec, check_features
from lensemble.encoder.micro_batches.split import split_by_budgets
from lensemble.encoder.micro_batches.started_encoding import StartedEncoding
from lensemble.encoder.packing import PackedBatch, pack
from lensemble.encoder.pass_statistics import PassStatistics
from lensemble.encoder.shared_prefix import common_prefix_length, share_prefix
from lensemble.encoder.synthetic_items import synthetic_mix, synthetic_picture, synthetic_texts
from lensemble.memory_errors import is_out_of_memory
from lensemble.preprocess.features import Features
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble.vectors import Vector
from lensemble_contract import contract
from lensemble_contract.errors import (
    InternalError,
    InvalidInputError,
    LensembleError,
    OverloadedError,
)

# Device type -> tokens and patches of a micro-batch. On CPUs larger micro-batches do not fit into
# the cache; docs/decisions.md has the measurements.
BUDGETS = {"cpu": (4096, 4096), "cuda": (16_384, 32_768)}

_SELF_TEST_TOKENS = 4


def micro_batch_budgets(settings: Settings, device: torch.device) -> tuple[int, int]:
    """The largest numbers of tokens and of patches of one micro-batch.

    Args:
        settings: the budgets; 0 takes those of `BUDGETS`.
        device: device of the weights.
    """
    tokens, patches = BUDGETS[device.type]
    return settings.batch_tokens or tokens, settings.batch_patches or patches


@dataclass(frozen=True, slots=True)
class PassResult:
    """The result of one pass.

    Attributes:
        vectors: (S, D) float32, one for each of the S items.
        tokens: number of tokens that the text tower computed.
        patches: number of patches that the vision tower computed.
        tower_seconds: seconds in the vision tower and in the text tower, if they were measured.
    """

    vectors: Vector
    tokens: int
    patches: int
    tower_seconds: Sequence[float] = ()


class Engine(ABC):
    """Encodes features with the model of one serving checkpoint.

    Args:
        profile: profile of the checkpoint.
        input_spec: input specification of its model.
        batch_tokens: largest number of tokens in one micro-batch.
        batch_patches: largest number of patches in one micro-batch.

    Attributes:
        profile: profile of the checkpoint.
        input_spec: input specification of its model.
        statistics: sums over all passes so far.
        engine_name: name of the engine, as in `Settings.engine`.
        passes_in_flight: number of passes that may be launched before the first of them has ended.
    """

    engine_name: str
    passes_in_flight = 1

    def __init__(
        self,
        profile: Profile,
        input_spec: InputSpec,
        *,
        batch_tokens: int,
        batch_patches: int,
    ) -> None:
        self.profile, self.input_spec = profile, input_spec
        self._batch_tokens, self._batch_patches = batch_tokens, batch_patches
        self.statistics = PassStatistics()

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    @abstractmethod
    def precision(self) -> str:
        """Precision of the weights, such as `float32`."""

    @abstractmethod
    def run_pass(self, items: Sequence[Features]) -> PassResult:
        """Encodes one micro-batch.

        Args:
            items: at least one item that `check_features` has accepted.

        Raises:
            Exception: The micro-batch does not fit into memory, or fails in another way.
        """

    def launch_pass(self, items: Sequence[Features]) -> Callable[[], PassResult]:
        """Launches one micro-batch, and returns a function that waits for its result.

        Engines on CPUs run the pass in that function.

        Args:
            items: as for `run_pass`.

        Raises:
            Exception: As for `run_pass`; the function raises it, too.
        """
        return partial(self.run_pass, items)

    def encode(
        self,
        items: Sequence[Features],
        dimensions: Sequence[int | None] | None = None,
        *,
        deadlines: Sequence[int] | None = None,
    ) -> list[Vector | LensembleError]:
        """Encodes any number of items of any size.

        Args:
            items: features of the items.
            dimensions: Matryoshka length of each item's vector; None is the profile's full length.
            deadlines: deadline of each item, as in `contract.DEADLINE`; they are checked before
                each micro-batch.

        Returns:
            For each item, in order, its vector (D,), float32, unit length, or its own error.
        """
        return self.start(items, dimensions, deadlines=deadlines)()

    def start(
        self,
        items: Sequence[Features],
        dimensions: Sequence[int | None] | None = None,
        *,
        deadlines: Sequence[int] | None = None,
    ) -> Callable[[], list[Vector | LensembleError]]:
        """Begins to encode items, and returns a function that waits for the result.

        On GPUs the caller can prepare the next items meanwhile; on CPUs the work is done when the
        function is called. Functions must be called in the order in which they were returned.

        Args:
            items: as for `encode`.
            dimensions: as for `encode`.
            deadlines: as for `encode`.
        """
        if dimensions is None:
            dimensions = [None] * len(items)
        errors: dict[int, LensembleError] = {}
        valid: list[int] = []  # indices into `items`
        for n, item in enumerate(items):
            try:
                self.profile.check_dimensions(dimensions[n])
                self.check_length(item)
                check_features(item, self.input_spec)
                valid.append(n)
            except LensembleError as error:
                errors[n] = error
        valid_items = [items[n] for n in valid]
        started = StartedEncoding(
            self._launch_counted_pass,
            self.passes_in_flight,
            valid_items,
            [dimensions[n] for n in valid],
            None if deadlines is None else [deadlines[n] for n in valid],
            split_by_budgets(valid_items, self._batch_tokens, self._batch_patches),
        )

        def wait() -> list[Vector | LensembleError]:
            results = iter(started.results())
            return [errors[n] if n in errors else next(results) for n in range(len(items))]

        return wait

    def check_length(self, item: Features) -> None:
        """Refuses an item that `preprocess` would have refused for its length.

        A caller may send features to the encoder directly. The time of a pass grows with the square
        of the number of tokens.

        Raises:
            InvalidInputError: The prompt is longer than the profile's `max_tokens`, or there are
                more patches than such a prompt has places for.
        """
        tokens, longest = len(item.input_ids), self.profile.max_tokens
        if tokens > longest:
            raise InvalidInputError(
                f"the prompt has {tokens} tokens; at most {longest}; shorten the text or send "
                "fewer pictures",
                field=contract.INPUT_IDS.name,
            )
        patches, most = len(item.patches), tokens * self.input_spec.merge_size**2
        if patches > most:
            raise InvalidInputError(
                f"{patches} patches for a prompt of {tokens} tokens, which has places for at most "
                f"{most}",
                field=contract.PATCHES.name,
            )

    def vectors(self, items: Sequence[Features]) -> Vector:
        """Encodes items, and raises an error if one of them fails.

        Args:
            items: features of at least one item.

        Returns:
            (S, D) float32, unit length.

        Raises:
            LensembleError: An item failed; this is the error of the first such item.
        """
        vectors = []
        for result in self.encode(items):
            if isinstance(result, LensembleError):
                raise result
            vectors.append(result)
        return np.stack(vectors)

    def pack(self, items: Sequence[Features]) -> PackedBatch:
        """Packs items the way that is cheapest on this device.

        On CPUs the common prefix of all items is computed once: it is more than half of a short
        text's tokens. This needs last-token pooling, because a mean includes the prefix's tokens
        of every item.

        Args:
            items: at least one item that `check_features` has accepted.
        """
        packed = pack(items, self.input_spec)
        if len(items) == 1 or self.device.type != "cpu" or self.profile.pooling != "last_token":
            return packed
        return share_prefix(packed, common_prefix_length(items, self.input_spec))

    def budget_shares(self, item: Features) -> tuple[float, float]:
        """Returns the shares of the token budget and of the patch budget that an item uses."""
        return (
            len(item.input_ids) / self._batch_tokens,
            len(item.patches) / self._batch_patches,
        )

    def warm_up(self) -> None:
        """Encodes a text alone, then two texts and a picture together: the first time is slower.

        Raises:
            OverloadedError: A text or a picture does not fit into memory.
            InternalError: A text or a picture cannot be encoded; the message has the cause.
        """
        items = synthetic_mix(self.input_spec)
        self._try_pass(items[:1], "a text")
        self._try_pass(items, "texts and a picture")

    def self_test(self) -> None:
        """Encodes a text of a few tokens and a picture of a few patches.

        Raises:
            OverloadedError: They do not fit into memory.
            InternalError: The pass failed; the message has the cause.
        """
        text = synthetic_texts([_SELF_TEST_TOKENS], self.input_spec)
        picture = synthetic_picture(self.input_spec.merge_size, self.input_spec)
        self._try_pass([*text, picture], "a text and a picture")

    def trim_memory(self) -> None:
        """Gives freed memory back to the operating system. Call it only while no pass runs."""
        if self.device.type == "cpu":
            return_freed_memory()

    def _try_pass(self, items: Sequence[Features], description: str) -> None:
        """Runs a pass without halving.

        Raises:
            OverloadedError: The items do not fit into memory.
            InternalError: The pass failed, or a vector is not finite.
        """
        try:
            vectors = self.run_pass(items).vectors
        except Exception as error:
            kind = OverloadedError if is_out_of_memory(error) else InternalError
            # Errors of CUDA have many lines; the log has all of them.
            cause = str(error).partition("\n")[0]
            raise kind(
                f"the encoder on {self.device} cannot encode {description}: "
                f"{type(error).__name__}: {cause}"
            ) from error
        if not np.isfinite(vectors).all():
            raise InternalError(
                f"the encoder on {self.device} gave a vector that is not finite for {description}"
            )

    def _launch_counted_pass(self, items: Sequence[Features]) -> Callable[[], Vector]:
        """Does the same as `launch_pass`, and adds the pass to `statistics` when it has ended."""
        wait = self.launch_pass(items)

        def wait_and_count() -> Vector:
            result = wait()
            tokens, patches = result.tokens, result.patches
            self.statistics.add(
                passes=1,
                items=len(items),
                tokens=tokens,
                patches=patches,
                budget=max(tokens / self._batch_tokens, patches / self._batch_patches),
                **dict(zip(("vision_s", "text_s"), result.tower_seconds, strict=False)),
            )
            return result.vectors

        return wait_and_count
