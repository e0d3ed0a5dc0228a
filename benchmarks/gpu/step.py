"""What the steps share: arguments, checkpoints, timing, FLOP counts, result files."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.results import machine
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.precision import bf16_is_faster
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features
from lensemble.settings import Settings
from lensemble_export.convert_checkpoint import convert_checkpoint
from lensemble_export.model_shapes import SHAPES
from lensemble_export.random_checkpoint import write_random_checkpoint


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the GPU measurements.

    Attributes:
        out: Folder for results.
        work: Folder for checkpoints, which is kept between steps.
        dry: Whether the step runs on the CPU with a tiny checkpoint.
        shape: Name of the model shape, a key of `lensemble_export.model_shapes.SHAPES`.
    """

    out: Path
    work: Path
    dry: bool
    shape: str

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def dtype(self) -> str:
        """Precision: bf16, or fp32 in a dry run on a CPU on which bf16 would take minutes."""
        return "fp32" if self.dry and not bf16_is_faster() else "bf16"

    def source_checkpoint(self) -> Path:
        """Returns a checkpoint with random weights, which is made if it is missing."""
        folder = self.work / f"{self.shape}-source"
        if not (folder / "model.safetensors.index.json").is_file():
            write_random_checkpoint(folder, self.shape, device=self.device.type)
        return folder

    def checkpoint(self) -> Path:
        """Returns the serving checkpoint, which is made if it is missing."""
        folder = self.work / self.shape
        if not (folder / "profile.json").is_file():
            convert_checkpoint(str(self.source_checkpoint()), folder)
        return folder

    def settings(self, dtype: str | None = None) -> Settings:
        """Returns the settings of the encoder; `dtype` replaces the step's precision."""
        settings = Settings(checkpoint=self.checkpoint())
        return settings.with_changes(dtype=dtype or self.dtype, device=self.device.type)

    def encoder(self, dtype: str | None = None) -> TorchEngine:
        """Returns the encoder; `dtype` replaces the step's precision."""
        return TorchEngine.load(
            Checkpoint.open(self.checkpoint()), self.settings(dtype), str(self.device)
        )

    def seconds(self, run: Callable[[], object], repeats: int = 7, warm_up: int = 2) -> float:
        """Returns the median seconds of a call after warm-up, including the device's work.

        A dry run only shows that the step works, so it measures just twice.
        """
        if self.dry:
            repeats, warm_up = 2, 1
        seconds = []
        for number in range(warm_up + repeats):
            self.synchronize()
            began = time.perf_counter()
            run()
            self.synchronize()
            if number >= warm_up:
                seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    def synchronize(self) -> None:
        """Waits until the device has finished its work."""
        if not self.dry:
            torch.cuda.synchronize()

    def save(self, name: str, results: Mapping[str, Any]) -> None:
        """Writes the step's result file and prints the results as one JSON line."""
        self.out.mkdir(parents=True, exist_ok=True)
        content = {
            "machine": machine() | {"driver": None if self.dry else _driver()},
            "params": {"shape": self.shape, "dry": self.dry},
            "results": dict(results),
        }
        (self.out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
        print(json.dumps(dict(results), separators=(",", ":")))


def parse_arguments(description: str | None) -> Step:
    """Returns the step as the command line describes it."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/gpu"))
    parser.add_argument("--shape", help="default: 2b, or tiny with --dry")
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    shape = options.shape or ("tiny" if options.dry else "2b")
    return Step(options.out, options.work / ("dry" if options.dry else "real"), options.dry, shape)


def text_features(tokens: int, seed: int = 0) -> Features:
    """Returns the features of a text with that many tokens, those of the prompt included."""
    ids = np.random.default_rng(seed).integers(0, 8000, tokens, dtype=np.int32)
    return Features(ids, np.empty((0, 768), np.uint8), np.empty((0, 3), np.int32))


def picture_features(height: int, width: int, encoder: TorchEngine, seed: int = 0) -> Features:
    """Returns the features of a picture, with the 22 tokens of the prompt around it."""
    rng = np.random.default_rng(seed)
    rows, columns = height // 16, width // 16
    image_tokens = np.full(rows * columns // 4, encoder.input_spec.image_token_id, np.int32)
    prompt = rng.integers(0, 8000, 22, dtype=np.int32)
    return Features(
        np.concatenate([prompt[:14], image_tokens, prompt[14:]]),
        rng.integers(0, 256, (rows * columns, 768), dtype=np.uint8),
        np.array([[1, rows, columns]], np.int32),
    )


def mixed_features(count: int, encoder: TorchEngine, largest: int = 1024) -> list[Features]:
    """Returns half texts of 5 to 200 tokens, half pictures of 128 to `largest` pixels a side."""
    rng = np.random.default_rng(1)
    items = []
    for n in range(count):
        if n % 2:
            height, width = (int(side) * 32 for side in rng.integers(4, largest // 32 + 1, 2))
            items.append(picture_features(height, width, encoder, n))
        else:
            items.append(text_features(int(rng.integers(5, 201)), n))
    return items


def flop(items: list[Features], shape: str) -> float:
    """Returns the floating-point operations of a forward pass; a multiply-add counts as two.

    The formula counts linear layers and attention of both towers, for one frame per picture. The
    unit tests compare it with PyTorch's FlopCounterMode on a tiny model.
    """
    text, vision = SHAPES[shape]["text"], SHAPES[shape]["vision"]
    hidden, layers = text["hidden_size"], text["num_hidden_layers"]
    query = text["num_attention_heads"] * text["head_dim"]
    key = text["num_key_value_heads"] * text["head_dim"]
    width, inner, depth = vision["hidden_size"], vision["intermediate_size"], vision["depth"]
    mergers = 1 + len(vision["deepstack_visual_indexes"])
    total = 0.0
    for item in items:
        tokens = len(item.input_ids)
        linear = hidden * query + 2 * hidden * key + query * hidden
        linear += 3 * hidden * text["intermediate_size"]
        total += layers * (2 * tokens * linear + 2 * tokens**2 * query)  # causal: half of all pairs
        for patches in item.image_grid_thw.astype(np.int64).prod(axis=1).tolist():
            total += 2 * patches * 768 * width
            total += depth * 2 * patches * (4 * width * width + 2 * width * inner)
            total += depth * 4 * patches**2 * width
            total += mergers * patches // 4 * 2 * (16 * width * width + 4 * width * hidden)
    return total


def _driver() -> str:
    """Returns the driver's version and the clocks of the GPU, as `nvidia-smi` prints them."""
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
