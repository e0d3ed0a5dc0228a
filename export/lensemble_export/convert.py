"""A Hugging Face checkpoint -> a serving checkpoint: checked, described, hashed.

Only safetensors and JSON are taken over: no pickle, and no code from the checkpoint is run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lensemble.checkpoint import content_hash, fingerprint
from lensemble.profile import FILE_NAME as PROFILE_FILE
from lensemble.profile import Pooling, Profile, PromptProfile
from lensemble_contract.errors import InvalidInputError
from lensemble_export.checks import check_model, check_tokens, image_profile, read_json

NEEDED = ("config.json", "tokenizer.json", "preprocessor_config.json")
TAKEN_ALONG = (
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "video_preprocessor_config.json",
    "model.safetensors.index.json",
)
OFFICIAL_MAX_TOKENS = 8192
"""The official embedder's MAX_LENGTH."""
MATRYOSHKA_MIN_DIMENSION = 64
"""Smallest `dimensions` on the published model cards."""


@dataclass(frozen=True, slots=True)
class Semantics:
    """What a built-in profile fixes.

    Attributes:
        pooling: How hidden states become one vector.
        instruction: Default system message; empty is none.
        generation_prompt: Whether the assistant's header follows.
        append_endoftext: Whether `<|endoftext|>` ends the prompt.
        matryoshka: Whether the model was trained to have its vectors cut.
    """

    pooling: Pooling
    instruction: str
    generation_prompt: bool
    append_endoftext: bool
    matryoshka: bool


PROFILES = {
    "qwen3-vl-embedding": Semantics("last_token", "Represent the user's input.", True, True, True),
    "qwen3-vl-mean": Semantics("mean", "", False, False, False),
}


def convert(
    source: str,
    out: Path,
    profile: str = "qwen3-vl-embedding",
    *,
    append_endoftext: bool | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    min_dimension: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    progress: bool = False,
) -> Profile:
    """Makes a serving checkpoint.

    Args:
        source: Folder in Hugging Face format, or a hub id such as `Qwen/Qwen3-VL-Embedding-2B`.
        out: Folder to write; must be missing or empty.
        profile: A name in `PROFILES`.
        append_endoftext: Overrides what the profile does.
        min_pixels: Overrides the profile's limit.
        max_pixels: Overrides the profile's limit.
        min_dimension: Overrides the smallest Matryoshka length.
        report: Called with one line per check.
        progress: Whether to show progress bars.

    Returns:
        The profile that was written.

    Raises:
        InvalidInputError: The source is not a Qwen3-VL checkpoint in safetensors, its tokens do
            not fit its configuration, `out` is not empty, or `min_dimension` is not possible.
    """
    if profile not in PROFILES:
        raise InvalidInputError(f"{profile!r} is not one of {', '.join(PROFILES)}", field="profile")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError(f"{str(out)!r} is not an empty folder", field="out")
    folder = _locate(source)
    semantics = PROFILES[profile]
    if append_endoftext is not None:
        semantics = replace(semantics, append_endoftext=append_endoftext)
    config = read_json(folder / "config.json")
    weights = check_model(folder, config)
    dimension = config["text_config"]["hidden_size"]
    shortest = _min_dimension(min_dimension, dimension, semantics)
    report(f"weights: {len(weights)} safetensors files, {config['architectures'][0]}")
    tokens = check_tokens(folder, config, semantics.append_endoftext, report)
    image = image_profile(
        read_json(folder / "preprocessor_config.json"), profile, min_pixels, max_pixels, report
    )
    out.mkdir(parents=True, exist_ok=True)
    names = [*NEEDED, *weights, *(n for n in TAKEN_ALONG if (folder / n).is_file())]
    for name in names:
        _link_or_copy(folder / name, out / name)
    files = fingerprint(out, names, progress=progress)
    made = Profile(
        name=profile,
        model_id=source if not Path(source).exists() else Path(source).resolve().name,
        content_hash=content_hash(files),
        dimension=dimension,
        min_dimension=shortest,
        pooling=semantics.pooling,
        max_tokens=OFFICIAL_MAX_TOKENS,
        prompt=PromptProfile(
            semantics.instruction,
            semantics.generation_prompt,
            semantics.append_endoftext,
            tokens,
        ),
        image=image,
        files=files,
    )
    made.save(out)
    report(f"profile: {made.name}, {dimension} dimensions, {made.hash}")
    return made


def _min_dimension(wanted: int | None, dimension: int, semantics: Semantics) -> int:
    if wanted is None:
        return min(MATRYOSHKA_MIN_DIMENSION, dimension) if semantics.matryoshka else dimension
    if not semantics.matryoshka or not 1 <= wanted <= dimension:
        allowed = f"1 to {dimension}" if semantics.matryoshka else "none: vectors cannot be cut"
        raise InvalidInputError(f"{wanted}; expected {allowed}", field="min_dimension")
    return wanted


def _locate(source: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise InvalidInputError(
            f"no folder {source!r}, and it is not a hub id such as Qwen/Qwen3-VL-Embedding-2B",
            field="source",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(source, allow_patterns=["*.safetensors", *NEEDED, *TAKEN_ALONG])  # nosec B615
        )
    except Exception as error:  # the hub client raises many kinds
        raise InvalidInputError(
            f"cannot get {source!r} from the hub: {error}", field="source"
        ) from error


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard link where the file system allows it: weights are large and never change."""
    if target.name != PROFILE_FILE and source.suffix == ".safetensors":
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
