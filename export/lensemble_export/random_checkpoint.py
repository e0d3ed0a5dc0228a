"""A checkpoint with the real architecture and random weights, in Hugging Face format.

Weights are drawn and written one tensor at a time, so that the memory needed is that of one file,
not of the model: an 8B checkpoint can be made on a small machine.
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
from lensemble_export.tokenizer import save_tokenizer, train_tokenizer

MAX_FILE_BYTES = 2 * 1024**3

# The published Instruct checkpoints' image processor; areas in pixels, despite the names.
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
    corpus: Iterable[str] | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> None:
    """Writes a checkpoint with random weights.

    Matrices are drawn with standard deviation 1/sqrt(inputs), so that what goes in reaches the
    vector at every depth; norms are 1 and biases small. Vectors of such a model tell pictures
    apart by their looks and know nothing of what is in them.

    Args:
        folder: Where to write; made if it is missing.
        shape: A name in `shapes.SHAPES`.
        seed: The same seed gives the same weights.
        dtype: Of the weights; float32 for `tiny`, else bfloat16.
        append_endoftext: See `tokenizer.train_tokenizer`.
        corpus: Likewise.
        device: Where the numbers are drawn; a GPU is faster and gives other ones.
        progress: Whether to show a progress bar.

    Raises:
        InvalidInputError: There is no such shape, or the folder is not empty.
    """
    if shape not in SHAPES:
        raise InvalidInputError(f"{shape!r} is not one of {', '.join(SHAPES)}", field="shape")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"{str(folder)!r} is not an empty folder", field="folder")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(
        min(SHAPES[shape]["text"]["vocab_size"], 8192),
        append_endoftext=append_endoftext,
        corpus=corpus,
    )
    save_tokenizer(tokenizer, folder)
    ids = tokenizer.get_vocab()
    config = _config(shape, ids)
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


def _config(shape: str, ids: dict[str, int]) -> Qwen3VLConfig:
    numbers = SHAPES[shape]
    config = Qwen3VLConfig(
        text_config={**numbers["text"], "tie_word_embeddings": numbers["tie_word_embeddings"]},
        vision_config=numbers["vision"],
        tie_word_embeddings=numbers["tie_word_embeddings"],
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
    with torch.device("meta"):
        shapes = Qwen3VLForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    files: list[dict[str, torch.Tensor]] = [{}]
    names: list[list[str]] = []
    size = 0

    def close_file() -> None:
        path = folder / f"model-{len(names) + 1:05d}.safetensors"
        save_file(files[0], path, metadata={"format": "pt"})
        path.chmod(0o644)  # a server may run as another user
        names.append(list(files[0]))
        files[0] = {}

    total_bytes = sum(tensor.numel() for tensor in shapes.values()) * dtype.itemsize
    with tqdm(
        desc=folder.name, total=total_bytes, unit="B", unit_scale=True, disable=not progress
    ) as bar:
        for name, meta in shapes.items():
            tensor = _draw(name, meta.shape, generator).to(dtype).cpu()
            if files[0] and size + tensor.nbytes > MAX_FILE_BYTES:
                close_file()
                size = 0
            files[0][name] = tensor
            size += tensor.nbytes
            bar.update(tensor.nbytes)
    close_file()
    weight_map: dict[str, str] = {}
    for n, held in enumerate(names, start=1):
        final = f"model-{n:05d}-of-{len(names):05d}.safetensors"
        (folder / f"model-{n:05d}.safetensors").rename(folder / final)
        weight_map |= dict.fromkeys(held, final)
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
        # Filters that hardly see a constant: else brightness drowns what is in the picture.
        tensor -= 0.9 * tensor.mean(dim=(1, 2, 3, 4), keepdim=True)
    return tensor
