"""Writes a trained encoder as a serving checkpoint in Hugging Face's layout, in float16."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from lensemble.encoder.pytorch.patch_embedding import PatchEmbedding
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.profile import FILE_NAME as PROFILE_FILE
from lensemble.profile import Profile
from lensemble_contract.errors import InvalidInputError
from lensemble_export.checkpoint_checks import read_json
from lensemble_export.convert_checkpoint import OPTIONAL_FILES, REQUIRED_FILES, convert_checkpoint

# Training only uses pictures of these areas.
MIN_PIXELS, MAX_PIXELS = 64 * 64, 128 * 128
# Half the bytes of float32, and eight times as precise as bfloat16 for weights of this size.
DTYPE = torch.float16


def write_checkpoint(encoder: TorchEngine, initial: Path, out: Path, min_dimension: int) -> Profile:
    """Writes the checkpoint.

    Args:
        encoder: Trained encoder.
        initial: Checkpoint that training began with, for its configuration and tokenizer.
        out: Folder to write; an existing checkpoint is replaced.
        min_dimension: Smallest Matryoshka length of the training.

    Returns:
        The profile that was written.

    Raises:
        InvalidInputError: `out` contains something other than a checkpoint.
    """
    if out.exists() and not (out / PROFILE_FILE).is_file() and any(out.iterdir()):
        raise InvalidInputError(
            f"{str(out)!r} exists and is not a checkpoint; choose another folder", field="out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        folder = Path(name) / "source" / out.name
        folder.mkdir(parents=True)
        for file in (*REQUIRED_FILES, *OPTIONAL_FILES):
            if (initial / file).is_file() and file != "model.safetensors.index.json":
                shutil.copyfile(initial / file, folder / file)
        config = read_json(initial / "config.json")
        config["dtype"] = str(DTYPE).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        limit_pixels(folder)
        save_file(weights(encoder), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
        converted = Path(name) / "converted"
        profile = convert_checkpoint(
            str(folder),
            converted,
            min_pixels=MIN_PIXELS,
            max_pixels=MAX_PIXELS,
            min_dimension=min_dimension,
        )
        shutil.rmtree(out, ignore_errors=True)
        converted.rename(out)
        return profile


def limit_pixels(folder: Path) -> None:
    """Writes the pixel limits into the file from which the reference reads them."""
    path = folder / "preprocessor_config.json"
    processor = read_json(path)
    processor["size"] = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    path.write_text(json.dumps(processor, indent=2) + "\n")


def weights(encoder: TorchEngine) -> dict[str, torch.Tensor]:
    """Returns the encoder's weights under the names of `Qwen3VLForConditionalGeneration`."""
    named = dict(encoder.model.state_dict())
    patch = encoder.model.visual.patch_embed
    assert isinstance(patch, PatchEmbedding)
    del named["visual.patch_embed.weight"], named["visual.patch_embed.bias"]
    # The Linear has the kernel summed over two equal frames, so each frame gets half of it.
    side = encoder.profile.image.patch_size
    frame = patch.weight.reshape(-1, 3, 1, side, side) / 2
    named["visual.patch_embed.proj.weight"] = frame.expand(-1, -1, 2, -1, -1)
    named["visual.patch_embed.proj.bias"] = patch.bias
    return {
        f"model.{name}": tensor.detach().to(DTYPE).cpu().contiguous()
        for name, tensor in named.items()
    }
