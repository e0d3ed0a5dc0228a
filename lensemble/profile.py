"""The profile: what makes vectors comparable, in one file beside the weights.

Weights, prompt, pooling, pictures' sizes and normalisation are in it; precision is not: bf16 moves
a vector by less than a thousandth per component (docs/decisions.md), another profile moves all of
it. Two vectors can be compared only if their profiles are equal, so the profile's hash is written
into every index, and an index is served only under the profile that it was built with.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from lensemble_contract.errors import InvalidInputError

FILE_NAME = "profile.json"
FORMAT = 1

Pooling = Literal["last_token", "mean"]


class Identity(Protocol):
    """What an index keeps of the profile that its vectors were made under."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def hash(self) -> str:
        """What is compared."""


@dataclass(frozen=True, slots=True)
class KnownProfile:
    """A profile of which no more is known than its identity, as of vectors that a server made.

    Attributes:
        hash: As the server says it beside every vector.
        name: For people; the server does not say it.
    """

    hash: str
    name: str = "unnamed"


@dataclass(frozen=True, slots=True)
class ImageProfile:
    """How pictures become patches.

    Attributes:
        min_pixels: A smaller picture (height x width) is enlarged to at least this.
        max_pixels: A larger one is reduced to at most this.
        patch_size: Side of a patch in pixels.
        merge_size: Patches per side that become one token.
        mean: Per channel, subtracted after scaling to 0..1.
        std: Per channel, divided by.
    """

    min_pixels: int
    max_pixels: int
    patch_size: int
    merge_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def factor(self) -> int:
        """Sides of a resized picture are multiples of this many pixels."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True, slots=True)
class PromptProfile:
    """How an item becomes a prompt.

    Attributes:
        instruction: System message where the request gives none; empty is no system message.
        generation_prompt: Whether the assistant's header follows the user's turn.
        append_endoftext: Whether `<|endoftext|>` ends the prompt.
        tokens: Token string -> id, for those that the prompt is built from.
    """

    instruction: str
    generation_prompt: bool
    append_endoftext: bool
    tokens: dict[str, int]


@dataclass(frozen=True)
class Profile:
    """What makes vectors comparable.

    Attributes:
        name: `qwen3-vl-embedding` or `qwen3-vl-mean`.
        model_id: Where the weights came from, for people.
        content_hash: `sha256:` over the weights, configuration and tokenizer.
        dimension: Length of a full vector.
        min_dimension: Smallest `dimensions` that a request may ask for (Matryoshka).
        pooling: `last_token` or `mean`, over hidden states after the final norm.
        max_tokens: Longest prompt, pictures included.
        prompt: How an item becomes a prompt.
        image: How pictures become patches.
        files: File name -> (sha256, bytes); not part of the hash, `content_hash` stands for it.
    """

    name: str
    model_id: str
    content_hash: str
    dimension: int
    min_dimension: int
    pooling: Pooling
    max_tokens: int
    prompt: PromptProfile
    image: ImageProfile
    files: dict[str, tuple[str, int]] = field(default_factory=dict)

    @functools.cached_property  # asked for at every request
    def hash(self) -> str:
        """`sha256:` over every field that changes a vector; `model_id` and `files` do not."""
        said = asdict(self)
        del said["files"], said["model_id"]
        canonical = json.dumps({"format": FORMAT, **said}, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"

    def check_dimensions(self, dimensions: int | None) -> int:
        """The length of the vector to return.

        Args:
            dimensions: What the request asks for; None is the full length.

        Raises:
            InvalidInputError: It is not between `min_dimension` and `dimension`.
        """
        if dimensions is None:
            return self.dimension
        if not self.min_dimension <= dimensions <= self.dimension:
            allowed = (
                f"{self.min_dimension} to {self.dimension}"
                if self.min_dimension < self.dimension
                else f"{self.dimension} only: it was not trained to be cut"
            )
            raise InvalidInputError(
                f"{dimensions}; profile {self.name!r} gives {allowed}", field="dimensions"
            )
        return dimensions

    def save(self, folder: Path) -> None:
        """Writes `profile.json` into a serving checkpoint."""
        said: dict[str, Any] = {"format": FORMAT, "hash": self.hash, **asdict(self)}
        (folder / FILE_NAME).write_text(json.dumps(said, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Profile:
        """Reads `profile.json` of a serving checkpoint.

        Raises:
            InvalidInputError: The file is missing, damaged, of another format, or edited by hand.
        """
        path = folder / FILE_NAME
        try:
            said = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise InvalidInputError(
                f"no {FILE_NAME} in {str(folder)!r}: not a serving checkpoint; make one with "
                "`python -m lensemble_export checkpoint`",
                field="checkpoint",
            ) from error
        except ValueError as error:
            raise InvalidInputError(
                f"{str(path)!r} is not JSON: {error}", field="checkpoint"
            ) from error
        if (found := said.pop("format", None)) != FORMAT:
            raise InvalidInputError(
                f"{str(path)!r} has format {found!r}, expected {FORMAT}; convert it again",
                field="checkpoint",
            )
        written = said.pop("hash", None)
        try:
            image: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in said["image"].items()
            }
            profile = cls(
                **{
                    **said,
                    "prompt": PromptProfile(**said["prompt"]),
                    "image": ImageProfile(**image),
                    "files": {name: (sha, size) for name, (sha, size) in said["files"].items()},
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInputError(
                f"{str(path)!r} is damaged ({error}); convert the checkpoint again",
                field="checkpoint",
            ) from error
        if written != profile.hash:
            raise InvalidInputError(
                f"{str(path)!r} was changed after it was written: it says {written}, its content "
                f"gives {profile.hash}; convert the checkpoint again",
                field="checkpoint",
            )
        return profile
