"""A Hugging Face checkpoint -> a serving checkpoint: checked, described, hashed.

Only safetensors and JSON are taken over: no pickle, and no code from the checkpoint is run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from lensemble import prompt
from lensemble.checkpoint import content_hash, fingerprint
from lensemble.profile import FILE_NAME as PROFILE_FILE
from lensemble.profile import ImageProfile, Pooling, Profile, PromptProfile
from lensemble_client.errors import InvalidInputError

ARCHITECTURES = ("Qwen3VLForConditionalGeneration", "Qwen3VLModel")
NEEDED = ("config.json", "tokenizer.json", "preprocessor_config.json")
TAKEN_ALONG = (
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "video_preprocessor_config.json",
    "model.safetensors.index.json",
)
PARTS = ("embed_tokens.weight", "patch_embed.proj.weight", "norm.weight")
"""Endings of tensors that every Qwen3-VL checkpoint has."""
QWEN_IDS = {
    prompt.ENDOFTEXT: 151643,
    prompt.IM_START: 151644,
    prompt.IM_END: 151645,
    prompt.VISION_START: 151652,
    prompt.VISION_END: 151653,
    prompt.IMAGE_PAD: 151655,
    prompt.VIDEO_PAD: 151656,
}
"""Ids in the published checkpoints."""

OFFICIAL_MIN_PIXELS = 4 * 32 * 32
OFFICIAL_MAX_PIXELS = 1800 * 32 * 32
"""Limits of the official embedder (Qwen3-VL-Embedding `qwen3_vl_embedding.py`: MIN_PIXELS,
MAX_PIXELS)."""
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
        report: Called with one line per check.
        progress: Whether to show progress bars.

    Returns:
        The profile that was written.

    Raises:
        InvalidInputError: The source is not a Qwen3-VL checkpoint in safetensors, its tokens do
            not fit its configuration, or `out` is not empty.
    """
    if profile not in PROFILES:
        raise InvalidInputError(f"{profile!r} is not one of {', '.join(PROFILES)}", field="profile")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError(f"{str(out)!r} is not an empty folder", field="out")
    folder = _locate(source)
    semantics = PROFILES[profile]
    if append_endoftext is not None:
        semantics = replace(semantics, append_endoftext=append_endoftext)
    config = _read_json(folder / "config.json")
    weights = _check_model(folder, config)
    report(f"weights: {len(weights)} safetensors files, {config['architectures'][0]}")
    tokens = _check_tokens(folder, config, semantics, report)
    image = _image_profile(
        _read_json(folder / "preprocessor_config.json"), profile, min_pixels, max_pixels, report
    )
    out.mkdir(parents=True, exist_ok=True)
    names = [*NEEDED, *weights, *(n for n in TAKEN_ALONG if (folder / n).is_file())]
    for name in names:
        _link_or_copy(folder / name, out / name)
    files = fingerprint(out, names, progress=progress)
    dimension = config["text_config"]["hidden_size"]
    made = Profile(
        name=profile,
        model_id=source if not Path(source).exists() else Path(source).resolve().name,
        content_hash=content_hash(files),
        dimension=dimension,
        min_dimension=min(MATRYOSHKA_MIN_DIMENSION, dimension)
        if semantics.matryoshka
        else dimension,
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
            snapshot_download(source, allow_patterns=["*.safetensors", *NEEDED, *TAKEN_ALONG])
        )
    except Exception as error:  # the hub client raises many kinds
        raise InvalidInputError(
            f"cannot get {source!r} from the hub: {error}", field="source"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"no {path.name} in {str(path.parent)!r}", field="source"
        ) from error
    except ValueError as error:
        raise InvalidInputError(f"{str(path)!r} is not JSON: {error}", field="source") from error
    return content


def _check_model(folder: Path, config: dict[str, Any]) -> list[str]:
    """Names of the weight files."""
    found = (config.get("architectures") or ["none"])[0]
    if found not in ARCHITECTURES or config.get("model_type") != "qwen3_vl":
        raise InvalidInputError(
            f"architecture is {found!r} ({config.get('model_type')!r}); expected one of "
            f"{', '.join(ARCHITECTURES)} (qwen3_vl)",
            field="source",
        )
    numbers = config.get("text_config")
    if not isinstance(numbers, dict) or not {"hidden_size", "vocab_size"} <= set(numbers):
        raise InvalidInputError(
            "config.json has no text_config with hidden_size and vocab_size", field="source"
        )
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.pt*")
        )
        raise InvalidInputError(
            f"no *.safetensors in {str(folder)!r}"
            + (
                f"; {', '.join(pickles)} would run code when loaded and is not read"
                if pickles
                else ""
            ),
            field="source",
        )
    held: set[str] = set()
    for name in weights:
        try:
            with safe_open(folder / name, "np") as file:
                held |= set(file.keys())
        except (SafetensorError, OSError) as error:
            raise InvalidInputError(
                f"{name} cannot be read ({error}); was it downloaded whole, or is it a pointer of "
                "git-lfs?",
                field="source",
            ) from error
    if lacking := [part for part in PARTS if not any(key.endswith(part) for key in held)]:
        raise InvalidInputError(f"the weights lack {', '.join(lacking)}", field="source")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted(set(_read_json(index)["weight_map"].values()) - set(weights))
        if missing:
            raise InvalidInputError(
                f"weight files are missing: {', '.join(missing)}", field="source"
            )
    return weights


def _check_tokens(
    folder: Path,
    config: dict[str, Any],
    semantics: Semantics,
    report: Callable[[str], None],
) -> dict[str, int]:
    """Special tokens' ids, checked against the configuration; says what is unusual."""
    if not (folder / "tokenizer.json").is_file():
        raise InvalidInputError(f"no tokenizer.json in {str(folder)!r}", field="source")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more special
        raise InvalidInputError(f"tokenizer.json is damaged: {error}", field="source") from error
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in prompt.TOKENS if token not in vocabulary]:
        raise InvalidInputError(f"the tokenizer lacks {', '.join(missing)}", field="source")
    tokens = {token: vocabulary[token] for token in prompt.TOKENS}
    for token, key in (
        (prompt.IMAGE_PAD, "image_token_id"),
        (prompt.VIDEO_PAD, "video_token_id"),
        (prompt.VISION_START, "vision_start_token_id"),
        (prompt.VISION_END, "vision_end_token_id"),
    ):
        if config.get(key) != tokens[token]:
            raise InvalidInputError(
                f"config.json says {key} {config.get(key)!r}, the tokenizer has {token} at "
                f"{tokens[token]}",
                field="source",
            )
    if tokens == QWEN_IDS:
        report("special tokens: the published ids")
    else:
        report(f"special tokens: not the published ids, but consistent ({tokens})")
    if max(tokens.values()) >= config["text_config"]["vocab_size"]:
        raise InvalidInputError(
            f"token id {max(tokens.values())} is outside the model's vocabulary of "
            f"{config['text_config']['vocab_size']}",
            field="source",
        )
    tokenizer.encode_special_tokens = True
    parsed = [
        token
        for token, id_ in tokens.items()
        if id_ in tokenizer.encode(token, add_special_tokens=False).ids
    ]
    if parsed:
        raise InvalidInputError(
            f"{', '.join(parsed)} are not marked special in tokenizer.json, so a user's text "
            "could forge them",
            field="source",
        )
    tokenizer.encode_special_tokens = False
    appends = tokenizer.encode("x").ids[-1] == tokens[prompt.ENDOFTEXT]
    report(f"<|endoftext|>: {_endoftext(appends, semantics.append_endoftext)}")
    return tokens


def _endoftext(appends: bool, wanted: bool) -> str:
    """What the tokenizer does about the trailing token, and what is done here."""
    if appends and wanted:
        return "the tokenizer appends it, and so does this profile"
    if wanted:
        return (
            "the tokenizer does NOT append it; this profile does, since the embedding is the "
            "hidden state of that token (--no-append-endoftext keeps it off)"
        )
    if appends:
        return "the tokenizer appends it; this profile does NOT (--append-endoftext puts it on)"
    return "neither the tokenizer nor this profile appends it"


def _image_profile(
    config: dict[str, Any],
    profile: str,
    min_pixels: int | None,
    max_pixels: int | None,
    report: Callable[[str], None],
) -> ImageProfile:
    for key, expected in (("patch_size", 16), ("merge_size", 2), ("temporal_patch_size", 2)):
        if config.get(key) != expected:
            raise InvalidInputError(
                f"preprocessor_config.json says {key} {config.get(key)!r}, expected {expected}",
                field="source",
            )
    for key in ("image_mean", "image_std"):
        if not isinstance(config.get(key), list) or len(config[key]) != 3:
            raise InvalidInputError(
                f"preprocessor_config.json says {key} {config.get(key)!r}, expected three numbers",
                field="source",
            )
    size = config.get("size") or {}
    own_min = config.get("min_pixels") or size.get("shortest_edge") or OFFICIAL_MIN_PIXELS
    own_max = config.get("max_pixels") or size.get("longest_edge") or OFFICIAL_MAX_PIXELS
    if profile == "qwen3-vl-embedding":
        chosen_min, chosen_max = OFFICIAL_MIN_PIXELS, OFFICIAL_MAX_PIXELS
        reason = "the official embedder's"
    else:
        chosen_min, chosen_max = own_min, min(own_max, OFFICIAL_MAX_PIXELS)
        reason = "the checkpoint's, with the official embedder's upper limit"
    chosen_min = min_pixels if min_pixels is not None else chosen_min
    chosen_max = max_pixels if max_pixels is not None else chosen_max
    if (min_pixels, max_pixels) != (None, None):
        reason = "as asked for"
    if not 0 < chosen_min <= chosen_max:
        raise InvalidInputError(f"{chosen_min} to {chosen_max} is no range", field="min_pixels")
    report(
        f"pictures: {chosen_min} to {chosen_max} pixels ({reason}); "
        f"the checkpoint's image processor says {own_min} to {own_max}"
    )
    return ImageProfile(
        min_pixels=chosen_min,
        max_pixels=chosen_max,
        patch_size=config["patch_size"],
        merge_size=config["merge_size"],
        mean=tuple(config["image_mean"]),
        std=tuple(config["image_std"]),
    )


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard link where the file system allows it: weights are large and never change."""
    if target.name != PROFILE_FILE and source.suffix == ".safetensors":
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
