"""The folder that `python -m lensemble_export onnx` writes: two graphs, and what they belong to."""

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
class ExportedGraphs:
    """The exported graphs of one checkpoint; `open` checks that they are complete.

    Attributes:
        folder: folder of the files.
        profile: hash of the profile of the checkpoint from which they were exported.
        precision: precision of the weights: `float32`, `float16`, `bfloat16` or `int8`.
        opset: version of ONNX's operators.
        files: name -> SHA-256 and size in bytes of each file.
        versions: package -> version with which they were exported.
    """

    folder: Path
    profile: str
    precision: str
    opset: int
    files: Mapping[str, tuple[str, int]]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def vision(self) -> Path:
        """Path of the vision tower's graph."""
        return self.folder / VISION

    @property
    def text(self) -> Path:
        """Path of the graph of the text tower, pooling and normalization."""
        return self.folder / TEXT

    @classmethod
    def open(cls, folder: Path, checkpoint: Checkpoint, *, full: bool = False) -> Self:
        """Opens a folder and checks its files.

        Args:
            folder: a folder that the export wrote.
            checkpoint: the checkpoint that is served.
            full: whether to hash the weights too; otherwise only their size is compared.

        Raises:
            InvalidInputError: A file is missing or was changed, or the graphs belong to another
                checkpoint.
        """
        try:
            description: Any = json.loads((folder / FILE).read_text())
            graphs = cls(
                folder,
                description["profile"],
                description["precision"],
                description["opset"],
                {
                    name: (str(sha256), int(size))
                    for name, (sha256, size) in description["files"].items()
                },
                description["versions"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"{str(folder)!r} has no {FILE} that can be read ({error!r}); expected what "
                "`python -m lensemble_export onnx` writes",
                field="onnx",
            ) from None
        if graphs.profile != checkpoint.profile.hash:
            raise InvalidInputError(
                f"the graphs in {str(folder)!r} were exported from profile {graphs.profile}, but "
                f"the checkpoint has {checkpoint.profile.hash}; export them again",
                field="onnx",
            )
        for name in {VISION, TEXT} - graphs.files.keys():
            raise InvalidInputError(
                f"{FILE} in {str(folder)!r} does not list {name!r}; export it again", field="onnx"
            )
        for name, (sha256, expected_size) in graphs.files.items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            is_small = path.suffix == ".onnx"
            if size != expected_size or ((full or is_small) and sha256_of(path) != sha256):
                raise InvalidInputError(
                    f"{str(path)!r} is not the file that was exported; export it again",
                    field="onnx",
                )
        return graphs

    def write(self) -> None:
        """Writes the description of the graphs into their folder."""
        description = asdict(self)
        del description["folder"]
        (self.folder / FILE).write_text(json.dumps(description, indent=2) + "\n")
