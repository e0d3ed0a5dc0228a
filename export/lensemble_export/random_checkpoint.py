"""Writes a checkpoint with the real architecture and random weights, in Hugging Face format.

Weights are drawn one tensor at a time and written one file at a time. Only one file is in memory at
a time, so a small machine can make an 8B checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from lensemble_contract.errors import InvalidInputError
from lensemble_export.model_shapes import SHAPES
from lensemble_export.output_folder import check_output_folder
from lensemble_export.tokenizer import save_tokenizer, train_tokenizer

MAX_FILE_BYTES = 2 * 1024**3

# Image processor of the published Instruct checkpoints. The sizes are areas in pixels, despite the
# names of their keys.
PREPROCESSOR_CONFIG: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
    "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
VIDEO_PREPROCESSOR_CONFIG: dict[str, Any] = {
    **PREPROCESSOR_CONFIG,
    "video_processor_type": "Qwen3VLVideoProcessor",
    "size": {"shortest_edge": 4096, "longest_edge": 25_165_824},
}
del VIDEO_PREPROCESSOR_CONFIG["image_processor_type"]


def write_random_checkpoint(
    folder: Path,
    shape: str = "tiny",
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    append_endoftext: bool = True,
    texts: Iterable[str] | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> None:
    """Writes a checkpoint with random weights.

    Matrices are drawn with standard deviation 1/sqrt(inputs), so that the input influences the
    vector at every depth; norms are 1 and biases small. The vectors of such a model distinguish
    pictures by their pixels, not by their content.

    Args:
        folder: folder to write; created if missing.
        shape: name in `model_shapes.SHAPES`.
        seed: seed of the weights; the same seed gives the same weights.
        dtype: precision of the weights; None is float32 for `tiny` and bfloat16 for the others.
        append_endoftext: as for `tokenizer.train_tokenizer`.
        texts: as for `tokenizer.train_tokenizer`.
        device: device that draws the numbers; a GPU is faster and gives other numbers.
        progress: whether to show a progress bar.

    Raises:
        InvalidInputError: The shape is unknown, or the folder is not empty.
    """
    if shape not in SHAPES:
        raise InvalidInputError(f"{shape!r} is not one of {', '.join(SHAPES)}", field="shape")
    check_output_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(
        min(SHAPES[shape]["text"]["vocab_size"], 8192),
        append_endoftext=append_endoftext,
        texts=texts,
    )
    save_tokenizer(tokenizer, folder)
    ids = tokenizer.get_vocab()
    config = make_config(shape, ids)
    if dtype is None:
        dtype = torch.float32 if shape == "tiny" else torch.bfloat16
    config.dtype = dtype
    config.save_pretrained(folder)
    for name, content in (
        ("preprocessor_config.json", PREPROCESSOR_CONFIG),
        ("video_preprocessor_config.json", VIDEO_PREPROCESSOR_CONFIG),
    ):
        (folder / name).write_text(json.dumps(content, indent=2))
    generator = torch.Generator(device).manual_seed(seed)
    _write_weights(folder, config, generator, dtype, progress)


def make_config(shape: str, ids: dict[str, int]) -> Qwen3VLConfig:
    """The configuration of a shape.

    Args:
        shape: name in `model_shapes.SHAPES`.
        ids: token -> id, with all special tokens.
    """
    sizes = SHAPES[shape]
    config = Qwen3VLConfig(
        text_config={**sizes["text"], "tie_word_embeddings": sizes["tie_word_embeddings"]},
        vision_config=sizes["vision"],
        tie_word_embeddings=sizes["tie_word_embeddings"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    config.architectures = ["Qwen3VLForConditionalGeneration"]
    return config


def _write_weights(
    folder: Path,
    config: Qwen3VLConfig,
    generator: torch.Generator,
    dtype: torch.dtype,
    progress: bool,
) -> None:
    with torch.device("meta"):  # shapes alone, without memory for the weights
        shapes = Qwen3VLForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    total_bytes = sum(tensor.numel() for tensor in shapes.values()) * dtype.itemsize
    files: list[list[str]] = []  # names of the tensors in each file written
    pending: dict[str, torch.Tensor] = {}

    def write_pending() -> None:
        path = folder / f"model-{len(files) + 1:05d}.safetensors"
        save_file(pending, path, metadata={"format": "pt"})
        path.chmod(0o644)  # a server may run as another user
        files.append(list(pending))
        pending.clear()

    pending_bytes = 0
    with tqdm(
        desc=folder.name, total=total_bytes, unit="B", unit_scale=True, disable=not progress
    ) as bar:
        for name, meta in shapes.items():
            tensor = _draw(name, meta.shape, generator).to(dtype).cpu()
            if pending and pending_bytes + tensor.nbytes > MAX_FILE_BYTES:
                write_pending()
                pending_bytes = 0
            pending[name] = tensor
            pending_bytes += tensor.nbytes
            bar.update(tensor.nbytes)
    write_pending()
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files, start=1):
        final_name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        (folder / f"model-{number:05d}.safetensors").rename(folder / final_name)
        weight_map |= dict.fromkeys(names, final_name)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1 and not name.endswith(".bias"):  # norms
        return torch.ones(shape)
    tensor = torch.randn(shape, generator=generator, device=generator.device)
    if name.endswith(".bias"):
        return tensor * 0.02
    if "embed_tokens" in name:
        return tensor * 0.5
    if "pos_embed" in name:
        return tensor * 0.05
    tensor /= math.sqrt(math.prod(shape[1:]))
    if "patch_embed" in name:
        # Nearly remove the mean of each filter: otherwise a picture's brightness dominates.
        tensor -= 0.9 * tensor.mean(dim=(1, 2, 3, 4), keepdim=True)
    return tensor
