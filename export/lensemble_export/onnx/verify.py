"""Whether graphs give the vectors of the PyTorch encoder, and of Transformers' own model.

The reference takes one item at a time, without packing, and pixels as its processor gives them, so
a graph that mixes items up, or scales pixels wrongly, is seen. One model is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensemble.checkpoint import Checkpoint
from lensemble.encoder.engine import Engine
from lensemble.encoder.freed_memory import return_freed_memory
from lensemble.encoder.input_spec import InputSpec
from lensemble.encoder.onnx.graph_files import ExportedGraphs
from lensemble.encoder.onnx.onnx_engine import OnnxEngine
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.preprocess.features import Features
from lensemble.settings import Settings
from lensemble_export.onnx.reference import Reference
from lensemble_export.onnx.verification_cases import make_cases

MIN_COSINE = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.999, "int8": 0.9}
"""Precision -> cosine that every vector must reach. What 8 bits cost is judged by retrieval; here
they are only to be no nonsense."""


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


def verify_graphs(
    checkpoint: Checkpoint, graphs: ExportedGraphs, report: Callable[[str], None]
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
    made = make_cases(InputSpec.from_folder(checkpoint.folder))
    ways: tuple[Callable[[], Engine | Reference], ...] = (
        lambda: OnnxEngine(checkpoint, graphs, settings),
        lambda: TorchEngine.load(checkpoint, settings),
        lambda: Reference(checkpoint.folder, checkpoint.profile),
    )
    found, *others = [_vectors(way, made) for way in ways]
    report(f"{'case':28} {'items':>5}   encoder: cosine, diff   reference: cosine, diff")
    worst: list[Agreement] = []
    for name, items in made.items():
        near = [Agreement.of(found[name], other[name]) for other in others]
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


def _vectors(
    way: Callable[[], Engine | Reference], made: Mapping[str, Sequence[Features]]
) -> dict[str, NDArray[np.float32]]:
    """Case -> vectors (S, D), by a model that is gone from memory afterwards."""
    model = way()
    found = {name: model.vectors(items) for name, items in made.items()}
    del model
    return_freed_memory()
    return found
