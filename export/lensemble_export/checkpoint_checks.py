"""Checks of a Hugging Face checkpoint, before it is converted.

They cover the properties that would change vectors without any error: architecture, weights,
special tokens. `image_profile` checks the preprocessing of pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from lensemble.preprocess import prompt
from lensemble_contract.errors import InvalidInputError

ARCHITECTURES = ("Qwen3VLForConditionalGeneration", "Qwen3VLModel")
# Endings of the names of tensors that every Qwen3-VL checkpoint has.
REQUIRED_TENSORS = ("embed_tokens.weight", "patch_embed.proj.weight", "norm.weight")
# Ids of the special tokens in the published checkpoints.
PUBLISHED_TOKEN_IDS = {
    prompt.ENDOFTEXT: 151643,
    prompt.IM_START: 151644,
    prompt.IM_END: 151645,
    prompt.VISION_START: 151652,
    prompt.VISION_END: 151653,
    prompt.IMAGE_PAD: 151655,
    prompt.VIDEO_PAD: 151656,
}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file of the checkpoint.

    Raises:
        InvalidInputError: The file is missing, is not JSON, or contains no object.
    """
    try:
        content: Any = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"no {path.name} in {str(path.parent)!r}", field="source"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{str(path)!r} is not JSON: {error}", field="source") from error
    if not isinstance(content, dict):
        raise InvalidInputError(
            f"{str(path)!r} contains a {type(content).__name__}; expected a JSON object",
            field="source",
        )
    return content


def check_model(folder: Path, config: dict[str, Any]) -> list[str]:
    """Checks the architecture and the weight files.

    Args:
        folder: checkpoint in Hugging Face format.
        config: content of its `config.json`.

    Returns:
        Names of the weight files.

    Raises:
        InvalidInputError: The architecture is not Qwen3-VL, the configuration of the text tower is
            incomplete, there are no safetensors files, one of them is missing or damaged, or they
            lack a tensor that every Qwen3-VL has.
    """
    _check_architecture(config)
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        raise InvalidInputError(_no_weights_message(folder), field="source")
    tensors: set[str] = set()
    for name in weights:
        try:
            with safe_open(folder / name, "np") as file:
                tensors |= set(file.keys())
        except (SafetensorError, OSError) as error:
            raise InvalidInputError(
                f"cannot read {name} ({error}); is its download complete, or is it a git-lfs "
                "pointer?",
                field="source",
            ) from error
    missing_tensors = [
        ending
        for ending in REQUIRED_TENSORS
        if not any(tensor.endswith(ending) for tensor in tensors)
    ]
    if missing_tensors:
        raise InvalidInputError(f"the weights lack {', '.join(missing_tensors)}", field="source")
    weight_index = folder / "model.safetensors.index.json"
    if weight_index.is_file():
        weight_map = read_json(weight_index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise InvalidInputError(
                f"{str(weight_index)!r} has no weight_map; expected an object of tensors and files",
                field="source",
            )
        missing_files = sorted(set(map(str, weight_map.values())) - set(weights))
        if missing_files:
            raise InvalidInputError(
                f"weight files are missing: {', '.join(missing_files)}", field="source"
            )
    return weights


def check_tokens(
    folder: Path,
    config: dict[str, Any],
    append_endoftext: bool,
    report: Callable[[str], None],
) -> dict[str, int]:
    """Checks the special tokens against the configuration.

    Args:
        folder: checkpoint in Hugging Face format.
        config: content of its `config.json`.
        append_endoftext: whether the profile ends prompts with `<|endoftext|>`.
        report: called with one line per check.

    Returns:
        Special token -> id.

    Raises:
        InvalidInputError: A token is missing, its id differs from the configuration's, or a user's
            text could forge it.
    """
    tokenizer = _load_tokenizer(folder)
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in prompt.TOKENS if token not in vocabulary]:
        raise InvalidInputError(f"the tokenizer lacks {', '.join(missing)}", field="source")
    tokens = {token: vocabulary[token] for token in prompt.TOKENS}
    _check_ids(tokens, config)
    if tokens == PUBLISHED_TOKEN_IDS:
        report("special tokens: the published ids")
    else:
        report(f"special tokens: not the published ids, but consistent ({tokens})")
    _check_not_forgeable(tokenizer, tokens)
    appends = tokenizer.encode("x").ids[-1] == tokens[prompt.ENDOFTEXT]
    report(f"<|endoftext|>: {_describe_endoftext(appends, append_endoftext)}")
    return tokens


def _check_architecture(config: dict[str, Any]) -> None:
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else "none"
    if architecture not in ARCHITECTURES or config.get("model_type") != "qwen3_vl":
        raise InvalidInputError(
            f"architecture is {architecture!r} ({config.get('model_type')!r}); expected one of "
            f"{', '.join(ARCHITECTURES)} (qwen3_vl)",
            field="source",
        )
    text_config = config.get("text_config")
    if not isinstance(text_config, dict) or not all(
        isinstance(text_config.get(name), int) for name in ("hidden_size", "vocab_size")
    ):
        raise InvalidInputError(
            "config.json has no text_config with hidden_size and vocab_size, both whole numbers",
            field="source",
        )


def _no_weights_message(folder: Path) -> str:
    pickles = [
        *sorted(path.name for path in folder.glob("*.bin")),
        *sorted(path.name for path in folder.glob("*.pt*")),
    ]
    message = f"no *.safetensors in {str(folder)!r}"
    if pickles:
        message += (
            f"; loading {', '.join(pickles)} can run code; convert the checkpoint to safetensors"
        )
    return message


def _load_tokenizer(folder: Path) -> Tokenizer:
    if not (folder / "tokenizer.json").is_file():
        raise InvalidInputError(f"no tokenizer.json in {str(folder)!r}", field="source")
    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more specific
        raise InvalidInputError(f"cannot read tokenizer.json: {error}", field="source") from error


def _check_ids(tokens: dict[str, int], config: dict[str, Any]) -> None:
    for token, key in (
        (prompt.IMAGE_PAD, "image_token_id"),
        (prompt.VIDEO_PAD, "video_token_id"),
        (prompt.VISION_START, "vision_start_token_id"),
        (prompt.VISION_END, "vision_end_token_id"),
    ):
        if config.get(key) != tokens[token]:
            raise InvalidInputError(
                f"config.json says {key} {config.get(key)!r}, but {token} has the id "
                f"{tokens[token]} in the tokenizer",
                field="source",
            )
    if max(tokens.values()) >= config["text_config"]["vocab_size"]:
        raise InvalidInputError(
            f"token id {max(tokens.values())} is outside the model's vocabulary of "
            f"{config['text_config']['vocab_size']}",
            field="source",
        )


def _check_not_forgeable(tokenizer: Tokenizer, tokens: dict[str, int]) -> None:
    """Checks that the name of a special token in a text is not encoded as the special token."""
    tokenizer.encode_special_tokens = True  # encode the names of special tokens as ordinary text
    forgeable = [
        token
        for token, id_ in tokens.items()
        if id_ in tokenizer.encode(token, add_special_tokens=False).ids
    ]
    tokenizer.encode_special_tokens = False
    if forgeable:
        raise InvalidInputError(
            f"{', '.join(forgeable)} are not marked special in tokenizer.json, so a user's text "
            "could forge them",
            field="source",
        )


def _describe_endoftext(tokenizer_appends: bool, profile_appends: bool) -> str:
    if tokenizer_appends and profile_appends:
        return "the tokenizer appends it, and so does this profile"
    if profile_appends:
        return (
            "the tokenizer does NOT append it; this profile does (--no-append-endoftext leaves it "
            "out). With last-token pooling the vector is the hidden state of that token"
        )
    if tokenizer_appends:
        return "the tokenizer appends it; this profile does NOT (--append-endoftext adds it)"
    return "neither the tokenizer nor this profile appends it"
