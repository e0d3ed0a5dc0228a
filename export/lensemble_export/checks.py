"""What embeddings silently depend on, checked before a checkpoint is taken over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from lensemble.preprocess import prompt
from lensemble.profile import ImageProfile
from lensemble_contract.errors import InvalidInputError

ARCHITECTURES = ("Qwen3VLForConditionalGeneration", "Qwen3VLModel")
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of the checkpoint.

    Raises:
        InvalidInputError: It is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"no {path.name} in {str(path.parent)!r}", field="source"
        ) from error
    except ValueError as error:
        raise InvalidInputError(f"{str(path)!r} is not JSON: {error}", field="source") from error
    return content


def check_model(folder: Path, config: dict[str, Any]) -> list[str]:
    """Names of the weight files, all found readable.

    Args:
        folder: In Hugging Face format.
        config: Its `config.json`.

    Raises:
        InvalidInputError: Another architecture, no safetensors, or some are missing or damaged.
    """
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
        missing = sorted(set(read_json(index)["weight_map"].values()) - set(weights))
        if missing:
            raise InvalidInputError(
                f"weight files are missing: {', '.join(missing)}", field="source"
            )
    return weights


def check_tokens(
    folder: Path,
    config: dict[str, Any],
    append_endoftext: bool,
    report: Callable[[str], None],
) -> dict[str, int]:
    """Special tokens' ids, checked against the configuration; says what is unusual.

    Args:
        folder: In Hugging Face format.
        config: Its `config.json`.
        append_endoftext: Whether the profile ends prompts with `<|endoftext|>`.
        report: Called with one line per check.

    Raises:
        InvalidInputError: A token is missing, at another id than the configuration says, or could
            be forged by a user's text.
    """
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
    report(f"<|endoftext|>: {_endoftext(appends, append_endoftext)}")
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


def image_profile(
    config: dict[str, Any],
    profile: str,
    min_pixels: int | None,
    max_pixels: int | None,
    report: Callable[[str], None],
) -> ImageProfile:
    """How the profile makes patches of pictures.

    Args:
        config: The checkpoint's `preprocessor_config.json`.
        profile: `qwen3-vl-embedding` takes the official embedder's pixel limits, another one the
            checkpoint's.
        min_pixels: Overrides the limit.
        max_pixels: Overrides the limit.
        report: Called with the limits that were chosen and the checkpoint's.

    Raises:
        InvalidInputError: Another patch size than Qwen3-VL's, no mean, or limits that are no range.
    """
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
