"""Graphs whose products are computed in 8 bits: each row of what comes in has a scale of its own.

ONNX Runtime's own dynamic quantisation has one scale for all rows of a call, so what an item's
vector is depends on what stands beside it. With a scale for each row it does not, and is nearer to
fp32. Weights have a scale for each column (symmetric, as rows have).

The sums are exact (`MatMulInteger`, 32 bits), so a row's result is the same in any batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lensemble.encoder.onnx.graph_files import TEXT, VISION, ExportedGraphs
from lensemble_export.onnx.export_graphs import describe

_MOST = 127
_MIDDLE = 128
"""Zero of what comes in, which is unsigned: the instructions multiply unsigned with signed."""
_LEAST = 1e-12
"""Scale of a row of zeros."""
_MIN_NUMBERS = 1 << 14
"""In a weight; less is not worth the steps around it."""


def quantize(graphs: ExportedGraphs, out: Path) -> ExportedGraphs:
    """Writes graphs with weights in 8 bits.

    Args:
        graphs: In fp32.
        out: Folder to write; empty, if there is one.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in (VISION, TEXT):
        model = ir.load(graphs.folder / name)
        products(model)
        ir.save(model, out / name, external_data=f"{name}.data")
    return describe(out, graphs.profile, "int8")


def products(model: ir.Model) -> int:
    """Replaces every product with a constant weight, in place.

    Args:
        model: Of the exporter; its products are `Gemm` and `MatMul`.

    Returns:
        How many.
    """
    done = 0
    for node in [*model.graph]:
        weight = _weight(node)
        if weight is None or weight.size < _MIN_NUMBERS:
            continue
        _replace(model.graph, node, weight)
        done += 1
    model.graph.sort()
    used = {value.name for node in model.graph for value in node.inputs if value is not None}
    for name in [*model.graph.initializers]:
        if name not in used:
            model.graph.initializers.pop(name)
    return done


def _weight(node: ir.Node) -> NDArray[np.float32] | None:
    """(K, N) of a product with a constant, or None."""
    if node.op_type not in ("Gemm", "MatMul") or node.domain:
        return None
    constant = node.inputs[1].const_value if node.inputs[1] is not None else None
    if constant is None or len(constant.shape) != 2:
        return None
    values: NDArray[np.float32] = constant.numpy()
    if node.op_type == "MatMul":
        return values
    attributes = {name: one.value for name, one in node.attributes.items()}
    if attributes.get("transA", 0) or attributes.get("alpha", 1) != 1:
        return None
    return values.T if attributes.get("transB", 0) else values


def _replace(graph: ir.Graph, node: ir.Node, weight: NDArray[np.float32]) -> None:
    """OneDnnLinear with x -> x in 8 bits by rows, W in 8 bits by columns, scaled back."""
    name = node.outputs[0].name
    tape = ir.tape.Tape()

    def constant(part: str, values: Any, dtype: Any = np.float32) -> ir.Value:
        tensor = ir.tensor(np.array(values, dtype), name=f"{name}/{part}")
        made = ir.Value(
            name=tensor.name,
            const_value=tensor,
            shape=ir.Shape(np.shape(values)),
            type=ir.TensorType(tensor.dtype),
        )
        graph.register_initializer(made)
        return made

    x = node.inputs[0]
    of_column = np.maximum(np.abs(weight).max(axis=0), _LEAST) / _MOST  # (N,)
    small = np.clip(np.rint(weight / of_column), -_MOST, _MOST)
    largest = tape.op(
        "ReduceMax", [tape.op("Abs", [x]), constant("axes", [-1], np.int64)], {"keepdims": 1}
    )
    largest = tape.op("Max", [largest, constant("least", _LEAST)])
    of_row = tape.op("Mul", [largest, constant("step", 1 / _MOST)])
    steps = tape.op("Round", [tape.op("Div", [x, of_row])])
    steps = tape.op("Add", [steps, constant("middle", _MIDDLE)])
    sums = tape.op(
        "MatMulInteger",
        [
            tape.op("Cast", [steps], {"to": ir.DataType.UINT8}),
            constant("weight", small, np.int8),
            constant("zero", _MIDDLE, np.uint8),
            constant("weight_zero", 0, np.int8),
        ],
    )
    y = tape.op("Cast", [sums], {"to": ir.DataType.FLOAT})
    y = tape.op("Mul", [y, constant("scale", of_column)])
    y = tape.op("Mul", [y, of_row])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        y = tape.op("Add", [y, node.inputs[2]])
    old = node.outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [old], [y])
