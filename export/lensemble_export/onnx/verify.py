"""Whether graphs give the vectors of the PyTorch encoder, and of Transformers' own model.

The reference takes one item at a time, without packing, and pixels as its processor gives them, so
a graph that mixes items up, or scales pixels wrongly, is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3VLModel

from lensemble.checkpoint import Checkpoint
from lensemble.config import Settings
from lensemble.encoder import Encoder
from lensemble.encoding import Encoding
from lensemble.features import Features
from lensemble.graphs import Graphs
from lensemble.onnx_encoder import OnnxEncoder
from lensemble.profile import Profile
from lensemble_client.errors import LensembleError
from lensemble_export.onnx.cases import cases

MIN_COSINE = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.999, "int8": 0.9}
"""Precision -> cosine that every vector must reach. What 8 bits cost is judged by retrieval; here
they are only to be no nonsense."""

_RGB = 3
_PIXELS = 256
_FRAMES = 2


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near two ways are on one case.

    Attributes:
        min_cosine: Of all its items.
        max_abs_diff: Of all components.
    """

    min_cosine: float
    max_abs_diff: float

    @classmethod
    def of(cls, one: NDArray[np.float32], other: NDArray[np.float32]) -> Agreement:
        """Of vectors (S, D) of unit length."""
        cosines = (one.astype(np.float64) * other).sum(axis=1)
        return cls(float(cosines.min()), float(np.abs(one - other).max()))


def verify(
    checkpoint: Checkpoint, graphs: Graphs, report: Callable[[str], None]
) -> dict[str, object]:
    """Compares on all cases.

    Args:
        checkpoint: That the graphs were made of.
        graphs: What the export wrote.
        report: Gets the lines of a table.

    Returns:
        `min_cosine` and `max_abs_diff` against whichever is further, `cases`, and whether it is
        near enough (`passed`).

    Raises:
        LensembleError: An item could not be encoded.
    """
    settings = Settings(checkpoint=checkpoint.folder, dtype="fp32")
    torch_encoder = Encoder.load(checkpoint, settings)
    graph_encoder = OnnxEncoder(checkpoint, graphs, settings)
    reference = Reference(checkpoint)
    report(f"{'case':28} {'items':>5}   encoder: cosine, diff   reference: cosine, diff")
    worst: list[Agreement] = []
    made = cases(torch_encoder.geometry)
    for name, items in made.items():
        found = vectors(graph_encoder, items)
        near = [
            Agreement.of(found, vectors(torch_encoder, items)),
            Agreement.of(found, reference.vectors(items)),
        ]
        worst += near
        figures = "  ".join(f"{one.min_cosine:.7f} {one.max_abs_diff:.1e}" for one in near)
        report(f"{name:28} {len(items):>5}  {figures}")
    min_cosine = min(one.min_cosine for one in worst)
    return {
        "precision": graphs.precision,
        "min_cosine": round(min_cosine, 8),
        "max_abs_diff": max(one.max_abs_diff for one in worst),
        "cases": len(made),
        "items": sum(map(len, made.values())),
        "passed": bool(min_cosine >= MIN_COSINE[graphs.precision]),
    }


def vectors(encoding: Encoding, items: Sequence[Features]) -> NDArray[np.float32]:
    """Vectors (S, D).

    Raises:
        LensembleError: Of the first item that has one.
    """
    found = []
    for result in encoding.encode(items):
        if isinstance(result, LensembleError):
            raise result
        found.append(result)
    return np.stack(found)


class Reference:
    """Transformers' own model in fp32, one item at a time.

    Args:
        checkpoint: The serving checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._profile: Profile = checkpoint.profile
        self._model = Qwen3VLModel.from_pretrained(  # nosec B615
            checkpoint.folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        ).eval()

    @torch.inference_mode()
    def vectors(self, items: Sequence[Features]) -> NDArray[np.float32]:
        """Vectors (S, D)."""
        return np.stack([self._vector(item) for item in items])

    def _vector(self, item: Features) -> NDArray[np.float32]:
        ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
        given = {}
        if len(item.patches):
            image = self._profile.image
            mean, std = (torch.tensor(each).view(_RGB, 1, 1) for each in (image.mean, image.std))
            rows = torch.from_numpy(item.patches).float().view(-1, _RGB, 1, _PIXELS)
            frame = (rows / 255 - mean) / std
            given = {
                "pixel_values": frame.expand(-1, -1, _FRAMES, -1).flatten(1),
                "image_grid_thw": torch.from_numpy(item.image_grid_thw.astype(np.int64)),
                "mm_token_type_ids": (ids == self._model.config.image_token_id).int(),
            }
        hidden = self._model(input_ids=ids, use_cache=False, **given).last_hidden_state[0]
        pooled = hidden[-1] if self._profile.pooling == "last_token" else hidden.mean(dim=0)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return unit
