"""Profiles and checkpoints without a model, for tests that need no vectors."""

from pathlib import Path
from typing import Any

from lensemble.checkpoint import content_hash, hash_files
from lensemble.profile import ImageProfile, Profile, PromptProfile

FILES = {"model.safetensors": b"weights" * 100, "tokenizer.json": b'{"model": {}}'}


def make_profile(**changes: Any) -> Profile:
    """A profile whose vectors have 256 dimensions and may be cut to 64."""
    values: dict[str, Any] = {
        "name": "test",
        "model_id": "test",
        "content_hash": "sha256:1",
        "dimension": 256,
        "min_dimension": 64,
        "pooling": "last_token",
        "max_tokens": 8192,
        "prompt": PromptProfile("Find it.", True, True, {"<|endoftext|>": 1}),
        "image": ImageProfile(4096, 65_536, 16, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    }
    return Profile(**{**values, **changes})


def write_fake_checkpoint(folder: Path) -> Path:
    """A serving checkpoint whose weights and tokenizer are a few arbitrary bytes."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    files = hash_files(folder, FILES)
    make_profile(content_hash=content_hash(files), files=files).save(folder)
    return folder
