"""The folder that `python -m lensemble_export onnx` writes: two graphs, and whose they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from lensemble.checkpoint import Checkpoint, sha256_of
from lensemble_contract.errors import InvalidInputError

FILE = "export.json"
VISION, TEXT = "vision.onnx", "text.onnx"


@dataclass(frozen=True, slots=True)
class Graphs:
    """Graphs that were found whole.

    Attributes:
        folder: Where they lie.
        profile: Hash of the profile of the checkpoint that they were made of.
        precision: Of the weights: `float32`, `float16`, `bfloat16` or `int8`.
        opset: Of ONNX's own operators.
        files: Name -> SHA-256 and size of each file.
        versions: Package -> version that made them.
    """

    folder: Path
    profile: str
    precision: str
    opset: int
    files: Mapping[str, tuple[str, int]]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def vision(self) -> Path:
        """Graph of the vision tower."""
        return self.folder / VISION

    @property
    def text(self) -> Path:
        """Graph of the text tower, pooling and normalisation."""
        return self.folder / TEXT

    @classmethod
    def open(cls, folder: Path, checkpoint: Checkpoint, *, full: bool = False) -> Self:
        """Opens a folder and checks it.

        Args:
            folder: What the export wrote.
            checkpoint: That serves.
            full: Whether to hash the weights too; otherwise their size is compared.

        Raises:
            InvalidInputError: A file is missing or changed, or another checkpoint's.
        """
        try:
            said: Any = json.loads((folder / FILE).read_text())
            found = cls(
                folder,
                said["profile"],
                said["precision"],
                said["opset"],
                {name: (str(sha256), int(size)) for name, (sha256, size) in said["files"].items()},
                said["versions"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"{str(folder)!r} has no {FILE} that can be read ({error!r}); expected what "
                "`python -m lensemble_export onnx` writes",
                field="onnx",
            ) from None
        if found.profile != checkpoint.profile.hash:
            raise InvalidInputError(
                f"the graphs in {str(folder)!r} were made of profile {found.profile}, the "
                f"checkpoint has {checkpoint.profile.hash}; export them again",
                field="onnx",
            )
        for name in {VISION, TEXT} - found.files.keys():
            raise InvalidInputError(
                f"{FILE} in {str(folder)!r} does not list {name!r}; export it again", field="onnx"
            )
        for name, (sha256, size) in found.files.items():
            path = folder / name
            there = path.stat().st_size if path.is_file() else None
            light = path.suffix == ".onnx"
            if there != size or ((full or light) and sha256_of(path) != sha256):
                raise InvalidInputError(
                    f"{str(path)!r} is not the file that was exported; export it again",
                    field="onnx",
                )
        return found

    def write(self) -> None:
        """Writes what is known of the graphs beside them."""
        said = asdict(self)
        del said["folder"]
        (self.folder / FILE).write_text(json.dumps(said, indent=2) + "\n")
