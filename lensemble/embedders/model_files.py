"""Where a model of another embedder lies, and what is written into its vectors' profile."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lensemble.checkpoint import content_hash, fingerprint
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, NotReadyError

FORMAT = 1
"""Of `made_under`; another one where the same model's vectors become others."""

_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")


def find(name: str, field: str) -> Path:
    """The folder of a model; one on the hub is downloaded, if it is not there yet.

    Args:
        name: A folder, or a hub id, with `@revision` behind it or without.
        field: Setting that it comes from, for errors.

    Raises:
        InvalidInputError: No such folder nor model on the hub, or none in safetensors.
        NotReadyError: The hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(name, field)
    if not any(folder.rglob("*.safetensors")):
        raise InvalidInputError(
            f"no *.safetensors in {name!r}; weights in other formats are not loaded", field=field
        )
    return folder


def _from_hub(name: str, field: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    said, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(said, revision=revision or None, allow_patterns=[*_FILES]))
    except (errors.HFValidationError, errors.RepositoryNotFoundError) as error:
        raise InvalidInputError(
            f"{name!r} is neither a folder nor a model on the hub", field=field
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise NotReadyError(
            f"{name!r} is no folder here, and the hub did not give it ({type(error).__name__})",
            field=field,
        ) from error


def content(folder: Path) -> str:
    """`sha256:` over weights, configuration and tokenizer; a second or so per gigabyte."""
    found = {path for pattern in _FILES for path in folder.rglob(pattern) if path.is_file()}
    return content_hash(
        fingerprint(folder, (path.relative_to(folder).as_posix() for path in found))
    )


def made_under(**said: object) -> str:
    """The profile's hash: `sha256:` over all that a vector depends on.

    Args:
        **said: That, as JSON values.
    """
    canonical = json.dumps({"format": FORMAT, **said}, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def read_json(path: Path, field: str) -> dict[str, Any]:
    """A JSON object from a file of a model's folder.

    Raises:
        InvalidInputError: There is none.
    """
    try:
        said = json.loads(path.read_text("utf-8"))
        if not isinstance(said, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field=field) from error
    return said


def check_dimensions(asked: int | None, dimension: int, embedder: str) -> None:
    """Refuses another length than the full one.

    Raises:
        InvalidInputError: Another one is asked for.
    """
    if asked not in (None, dimension):
        raise InvalidInputError(
            f"{asked}; the embedder {embedder!r} gives {dimension} only: it was not trained to be "
            "cut",
            field=contract.DIMENSIONS,
        )


def refuse_instruction(instruction: str | None, embedder: str) -> None:
    """Refuses an instruction, for embedders that were not trained with any.

    Raises:
        InvalidInputError: There is one.
    """
    if instruction:
        raise InvalidInputError(
            f"the embedder {embedder!r} takes none; leave it out", field=contract.INSTRUCTION.name
        )
