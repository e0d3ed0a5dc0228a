"""The profile: everything that makes vectors comparable, in one file beside the weights.

It contains hashes of the weights, the prompt, the pooling, the pixel limits and the normalization
of pixels. It does not contain the precision, because bf16 changes a component of a vector by less
than a thousandth (docs/decisions.md).

Two vectors can be compared only if their profiles are equal. So the hash of the profile is written
into every index, and an index is served only under the profile with which it was built.
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


class ProfileIdentity(Protocol):
    """What an index stores of its vectors' profile."""

    @property
    def name(self) -> str:
        """Name for people."""

    @property
    def hash(self) -> str:
        """Hash that is compared."""


@dataclass(frozen=True, slots=True)
class RemoteProfile:
    """The profile of vectors that a server made. Only its hash is known.

    Attributes:
        hash: hash that the server sends with every vector.
        name: name for people, which the server does not send.
    """

    hash: str
    name: str = "unnamed"


@dataclass(frozen=True, slots=True)
class ImageProfile:
    """How pictures become patches.

    Attributes:
        min_pixels: smallest area in pixels; smaller pictures are enlarged.
        max_pixels: largest area in pixels; larger pictures are reduced.
        patch_size: side of a patch in pixels.
        merge_size: patches per side of one token.
        mean: value of each channel to subtract from pixels that are scaled to 0..1.
        std: value of each channel by which to divide then.
    """

    min_pixels: int
    max_pixels: int
    patch_size: int
    merge_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def factor(self) -> int:
        """Side of a token in pixels; the sides of a resized picture are multiples of it."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True, slots=True)
class PromptProfile:
    """How an item becomes a prompt.

    Attributes:
        instruction: system message if the request has no instruction; empty for none.
        generation_prompt: whether the assistant's header follows the user's turn.
        append_endoftext: whether `<|endoftext|>` ends the prompt.
        tokens: token -> id, for the special tokens of the prompt.
    """

    instruction: str
    generation_prompt: bool
    append_endoftext: bool
    tokens: dict[str, int]


@dataclass(frozen=True)
class Profile:
    """Everything that makes vectors comparable.

    Attributes:
        name: `qwen3-vl-embedding` or `qwen3-vl-mean`.
        model_id: origin of the weights, for people.
        content_hash: `sha256:` over the weights, configuration and tokenizer.
        dimension: length D of a full vector.
        min_dimension: smallest `dimensions` that a request may ask for (Matryoshka).
        pooling: `last_token` or `mean`, over hidden states after the final norm.
        max_tokens: length of the longest prompt, pictures included.
        prompt: rules for prompts.
        image: rules for patches.
        files: file name -> (sha256, bytes); the hash includes `content_hash` instead.
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

    @functools.cached_property  # read at every request
    def hash(self) -> str:
        """`sha256:` over all fields that change a vector, so without `model_id` and `files`."""
        fields = asdict(self)
        del fields["files"], fields["model_id"]
        canonical = json.dumps({"format": FORMAT, **fields}, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"

    def check_dimensions(self, dimensions: int | None) -> int:
        """Checks the `dimensions` of a request.

        Args:
            dimensions: value in the request; None is the full length.

        Returns:
            The length of the vector to return.

        Raises:
            InvalidInputError: The value is not between `min_dimension` and `dimension`.
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
        fields: dict[str, Any] = {"format": FORMAT, "hash": self.hash, **asdict(self)}
        (folder / FILE_NAME).write_text(json.dumps(fields, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Profile:
        """Reads `profile.json` of a serving checkpoint.

        Raises:
            InvalidInputError: The file is missing, damaged, has another format, or was edited.
        """
        path = folder / FILE_NAME
        try:
            fields = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise InvalidInputError(
                f"no {FILE_NAME} in {str(folder)!r}: not a serving checkpoint; make one with "
                "`python -m lensemble_export checkpoint`",
                field="checkpoint",
            ) from error
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(
                f"{str(path)!r} is not JSON: {error}", field="checkpoint"
            ) from error
        if not isinstance(fields, dict):
            raise InvalidInputError(
                f"{str(path)!r} contains a {type(fields).__name__}, expected a JSON object; "
                "convert the checkpoint again",
                field="checkpoint",
            )
        if (file_format := fields.pop("format", None)) != FORMAT:
            raise InvalidInputError(
                f"{str(path)!r} has format {file_format!r}, expected {FORMAT}; convert it again",
                field="checkpoint",
            )
        written_hash = fields.pop("hash", None)
        try:
            image: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in fields["image"].items()
            }
            profile = cls(
                **{
                    **fields,
                    "prompt": PromptProfile(**fields["prompt"]),
                    "image": ImageProfile(**image),
                    "files": {name: (sha, size) for name, (sha, size) in fields["files"].items()},
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInputError(
                f"{str(path)!r} is damaged ({error}); convert the checkpoint again",
                field="checkpoint",
            ) from error
        if written_hash != profile.hash:
            raise InvalidInputError(
                f"{str(path)!r} was changed after it was written: it says {written_hash}, but its "
                f"content has {profile.hash}; convert the checkpoint again",
                field="checkpoint",
            )
        return profile
