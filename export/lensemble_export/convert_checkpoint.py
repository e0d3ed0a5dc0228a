"""Converts a Hugging Face checkpoint to a serving checkpoint: checks it, and writes its profile.

Only weights in safetensors, JSON files and the chat template are copied. Pickle files are refused,
and no code from the checkpoint runs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lensemble.checkpoint import content_hash, hash_files
from lensemble.profile import Pooling, Profile, PromptProfile
from lensemble_contract.errors import InvalidInputError
from lensemble_export.checkpoint_checks import check_model, check_tokens, read_json
from lensemble_export.image_profile import make_image_profile
from lensemble_export.output_folder import check_output_folder
from lensemble_export.sentence_transformers_files import write_sentence_transformers_files

REQUIRED_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json")
OPTIONAL_FILES = (
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "video_preprocessor_config.json",
    "model.safetensors.index.json",
)
# MAX_LENGTH of the official embedder.
OFFICIAL_MAX_TOKENS = 8192
# The smallest `dimensions` on the published model cards.
MATRYOSHKA_MIN_DIMENSION = 64


@dataclass(frozen=True, slots=True)
class ProfileDefaults:
    """Properties of a built-in profile that do not depend on the checkpoint.

    Attributes:
        pooling: how hidden states become one vector.
        instruction: default system message; empty means none.
        generation_prompt: whether the assistant's header follows the user's turn.
        append_endoftext: whether `<|endoftext|>` ends the prompt.
        matryoshka: whether the model was trained for shortened vectors.
    """

    pooling: Pooling
    instruction: str
    generation_prompt: bool
    append_endoftext: bool
    matryoshka: bool


PROFILES = {
    "qwen3-vl-embedding": ProfileDefaults(
        pooling="last_token",
        instruction="Represent the user's input.",
        generation_prompt=True,
        append_endoftext=True,
        matryoshka=True,
    ),
    "qwen3-vl-mean": ProfileDefaults(
        pooling="mean",
        instruction="",
        generation_prompt=False,
        append_endoftext=False,
        matryoshka=False,
    ),
}


def convert_checkpoint(
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
        source: folder in Hugging Face format, or a hub id such as `Qwen/Qwen3-VL-Embedding-2B`.
        out: folder to write; it must be missing or empty.
        profile: name in `PROFILES`.
        append_endoftext: whether `<|endoftext|>` ends the prompt; None takes the profile's default.
        min_pixels: smallest area of a resized picture; None takes the profile's default.
        max_pixels: largest area of a resized picture; None takes the profile's default.
        min_dimension: smallest Matryoshka length; None takes the profile's default.
        report: called with one line per check.
        progress: whether to show progress bars.

    Returns:
        The profile of the new checkpoint.

    Raises:
        InvalidInputError: The source is not a Qwen3-VL checkpoint in safetensors, its tokens do
            not fit its configuration, `out` is not empty, or the model does not support
            `min_dimension`.
    """
    if profile not in PROFILES:
        raise InvalidInputError(f"{profile!r} is not one of {', '.join(PROFILES)}", field="profile")
    check_output_folder(out)
    folder = _find_or_download(source)
    defaults = PROFILES[profile]
    if append_endoftext is not None:
        defaults = replace(defaults, append_endoftext=append_endoftext)
    config = read_json(folder / "config.json")
    weights = check_model(folder, config)
    dimension = config["text_config"]["hidden_size"]
    shortest_dimension = _checked_min_dimension(min_dimension, dimension, defaults)
    report(f"weights: {len(weights)} safetensors files, {config['architectures'][0]}")
    tokens = check_tokens(folder, config, defaults.append_endoftext, report)
    image = make_image_profile(
        read_json(folder / "preprocessor_config.json"), profile, min_pixels, max_pixels, report
    )
    out.mkdir(parents=True, exist_ok=True)
    names = [
        *REQUIRED_FILES,
        *weights,
        *(name for name in OPTIONAL_FILES if (folder / name).is_file()),
    ]
    for name in names:
        _link_or_copy(folder / name, out / name)
    files = hash_files(out, names, progress=progress)
    result = Profile(
        name=profile,
        model_id=source if not Path(source).exists() else Path(source).resolve().name,
        content_hash=content_hash(files),
        dimension=dimension,
        min_dimension=shortest_dimension,
        pooling=defaults.pooling,
        max_tokens=OFFICIAL_MAX_TOKENS,
        prompt=PromptProfile(
            defaults.instruction,
            defaults.generation_prompt,
            defaults.append_endoftext,
            tokens,
        ),
        image=image,
        files=files,
    )
    result.save(out)
    write_sentence_transformers_files(result, out)
    report(f"profile: {result.name}, {dimension} dimensions, {result.hash}")
    return result


def _checked_min_dimension(requested: int | None, dimension: int, defaults: ProfileDefaults) -> int:
    if requested is None:
        return min(MATRYOSHKA_MIN_DIMENSION, dimension) if defaults.matryoshka else dimension
    if not defaults.matryoshka or not 1 <= requested <= dimension:
        allowed = (
            f"1 to {dimension}"
            if defaults.matryoshka
            else "none: this profile's vectors cannot be cut"
        )
        raise InvalidInputError(f"{requested}; expected {allowed}", field="min_dimension")
    return requested


def _find_or_download(source: str) -> Path:
    """The folder of a checkpoint; a hub id is downloaded, or found in the hub's cache."""
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
            snapshot_download(
                source, allow_patterns=["*.safetensors", *REQUIRED_FILES, *OPTIONAL_FILES]
            )  # nosec B615
        )
    except Exception as error:  # the hub client raises many kinds
        raise InvalidInputError(
            f"cannot get {source!r} from the hub: {error}", field="source"
        ) from error


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-links weights, which are large and never change, if the file system allows it."""
    if source.suffix == ".safetensors":
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
