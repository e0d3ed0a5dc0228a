"""Compares the vectors of graphs with those of the PyTorch engine and of Transformers' own model.

The reference encodes one item at a time, without packing, and scales pixels with its own code. So
it reveals a graph that mixes items up or scales pixels wrongly. One model is in memory at a time.
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
from lensemble.encoder.pytorch.load_torch_engine import load_torch_engine
from lensemble.preprocess.features import Features
from lensemble.settings import Settings
from lensemble_export.onnx.reference import Reference
from lensemble_export.onnx.verification_cases import make_cases

# Precision -> cosine that every vector must reach. For 8 bits the limit only excludes gross errors;
# a dataset is needed to measure how much worse retrieval is.
MIN_COSINE = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.999, "int8": 0.9}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How close the vectors of two engines are on one case.

    Attributes:
        min_cosine: smallest cosine between the two vectors of an item.
        max_abs_diff: largest absolute difference of a component.
    """

    min_cosine: float
    max_abs_diff: float

    @classmethod
    def between(cls, first: NDArray[np.float32], second: NDArray[np.float32]) -> Agreement:
        """Compares two arrays of vectors (S, D), unit length."""
        cosines = (first.astype(np.float64) * second).sum(axis=1)
        return cls(float(cosines.min()), float(np.abs(first - second).max()))


def verify_graphs(
    checkpoint: Checkpoint, graphs: ExportedGraphs, report: Callable[[str], None]
) -> dict[str, object]:
    """Compares the vectors of graphs with both references, on all cases.

    Args:
        checkpoint: checkpoint from which the graphs were exported.
        graphs: graphs to verify.
        report: called with each line of a table.

    Returns:
        `precision`; `min_cosine` and `max_abs_diff`, over both references; `cases` and `items`,
        numbers of them; and `passed`, whether `min_cosine` is high enough.

    Raises:
        LensembleError: An item could not be encoded.
    """
    settings = Settings(checkpoint=checkpoint.folder, dtype="fp32")
    cases = make_cases(InputSpec.from_folder(checkpoint.folder))
    loaders: tuple[Callable[[], Engine | Reference], ...] = (
        lambda: OnnxEngine(checkpoint, graphs, settings),
        lambda: load_torch_engine(checkpoint, settings),
        lambda: Reference(checkpoint.folder, checkpoint.profile),
    )
    vectors, *references = [_encode_cases(load, cases) for load in loaders]
    report(f"{'case':28} {'items':>5}   encoder: cosine, diff   reference: cosine, diff")
    agreements: list[Agreement] = []
    for name, items in cases.items():
        of_case = [Agreement.between(vectors[name], reference[name]) for reference in references]
        agreements += of_case
        figures = "  ".join(
            f"{agreement.min_cosine:.7f} {agreement.max_abs_diff:.1e}" for agreement in of_case
        )
        report(f"{name:28} {len(items):>5}  {figures}")
    min_cosine = min(agreement.min_cosine for agreement in agreements)
    return {
        "precision": graphs.precision,
        "min_cosine": round(min_cosine, 8),
        "max_abs_diff": max(agreement.max_abs_diff for agreement in agreements),
        "cases": len(cases),
        "items": sum(map(len, cases.values())),
        "passed": bool(min_cosine >= MIN_COSINE[graphs.precision]),
    }


def _encode_cases(
    load: Callable[[], Engine | Reference], cases: Mapping[str, Sequence[Features]]
) -> dict[str, NDArray[np.float32]]:
    """Loads a model, encodes all cases, and frees the model.

    Returns:
        Name of the case -> vectors (S, D) float32.
    """
    model = load()
    vectors = {name: model.vectors(items) for name, items in cases.items()}
    del model
    return_freed_memory()
    return vectors
