"""Finds the files of another embedder's model, and computes the hash of its profile."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lensemble.checkpoint import content_hash, hash_files
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError, NotReadyError

# Part of `profile_hash`. To be changed when the same model would give other vectors than before.
FORMAT = 1

_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")


def find_model(name: str, field: str) -> Path:
    """Returns the folder of a model; downloads it from the hub if necessary.

    Args:
        name: a folder, or an id on the hub, optionally with `@revision` at its end.
        field: name of the setting, for error messages.

    Raises:
        InvalidInputError: There is no such folder and no such model on the hub, or it has no
            weights in safetensors.
        NotReadyError: The hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _download(name, field)
    if not any(folder.rglob("*.safetensors")):
        raise InvalidInputError(
            f"no *.safetensors in {name!r}; weights in other formats are not loaded", field=field
        )
    return folder


def _download(name: str, field: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    hub_id, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(hub_id, revision=revision or None, allow_patterns=[*_FILES]))
    except (errors.HFValidationError, errors.RepositoryNotFoundError) as error:
        raise InvalidInputError(
            f"{name!r} is neither a folder nor a model on the hub", field=field
        ) from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise NotReadyError(
            f"{name!r} is not a folder, and downloading it from the hub failed "
            f"({type(error).__name__})",
            field=field,
        ) from error


def model_content_hash(folder: Path) -> str:
    """Computes the `sha256:` of weights, configuration and tokenizer; about a second per GB."""
    paths = {path for pattern in _FILES for path in folder.rglob(pattern) if path.is_file()}
    return content_hash(hash_files(folder, (path.relative_to(folder).as_posix() for path in paths)))


def profile_hash(**fields: object) -> str:
    """Computes the hash of a profile: a `sha256:` over everything that changes a vector.

    Args:
        **fields: everything that changes a vector, as JSON values.
    """
    canonical = json.dumps({"format": FORMAT, **fields}, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def read_json(path: Path, field: str) -> dict[str, Any]:
    """Reads a JSON object from a file of a model.

    Args:
        path: path of the file.
        field: name of the setting, for error messages.

    Raises:
        InvalidInputError: The file cannot be read, or contains no JSON object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {str(path)!r}: {error}", field=field) from error
    return content


def check_dimensions(dimensions: int | None, full_dimension: int, embedder: str) -> None:
    """Refuses to cut vectors, for embedders that were not trained for it.

    Raises:
        InvalidInputError: The request asks for another length than the full one.
    """
    if dimensions not in (None, full_dimension):
        raise InvalidInputError(
            f"{dimensions}; the embedder {embedder!r} gives {full_dimension} only: it was not "
            "trained to be cut",
            field=contract.DIMENSIONS,
        )


def refuse_instruction(instruction: str | None, embedder: str) -> None:
    """Refuses an instruction, for embedders that were not trained with any.

    Raises:
        InvalidInputError: There is an instruction.
    """
    if instruction and instruction.strip():
        raise InvalidInputError(
            f"the embedder {embedder!r} takes none; leave it out", field=contract.INSTRUCTION.name
        )
