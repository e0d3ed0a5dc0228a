"""Quantizes graphs to 8 bits, with a scale for each row of the inputs of a matrix product.

ONNX Runtime's own dynamic quantization uses one scale for all rows of a call, so an item's vector
would depend on the other items of its batch. With a scale for each row, it does not, and it is
nearer to the fp32 vector. Weights have a scale for each column. Both quantizations are symmetric.

`MatMulInteger` sums exactly in 32 bits, so a row has the same result in any batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lensemble.encoder.onnx.graph_files import TEXT, VISION, ExportedGraphs
from lensemble_export.onnx.export_graphs import check_and_describe

# Largest absolute value of a quantized number.
_MAX_STEPS = 127
# Zero point of the inputs. Inputs are unsigned and weights are signed, because the instructions of
# CPUs multiply numbers of these types.
_INPUT_ZERO = 128
# Lower bound of the largest absolute value in a row or column, which avoids a scale of zero.
_MIN_LARGEST = 1e-12
# Weights with fewer elements stay in fp32, because quantizing their inputs takes longer than the
# product in 8 bits saves.
_MIN_WEIGHT_ELEMENTS = 1 << 14


def quantize(graphs: ExportedGraphs, out: Path) -> ExportedGraphs:
    """Writes graphs with weights in 8 bits.

    Args:
        graphs: graphs in fp32.
        out: folder to write; must be missing or empty.

    Returns:
        The graphs that were written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in (VISION, TEXT):
        model = ir.load(graphs.folder / name)
        quantize_products(model)
        ir.save(model, out / name, external_data=f"{name}.data")
    return check_and_describe(out, graphs.profile, "int8")


def quantize_products(model: ir.Model) -> int:
    """Replaces every matrix product of inputs and a constant weight by one in 8 bits, in place.

    Args:
        model: model that `torch.onnx` exported; its products are `Gemm` and `MatMul` nodes.

    Returns:
        Number of products replaced.
    """
    replaced = 0
    for node in [*model.graph]:
        weight = _constant_weight(node)
        if weight is None or weight.size < _MIN_WEIGHT_ELEMENTS:
            continue
        _replace_product(model.graph, node, weight)
        replaced += 1
    model.graph.sort()
    used = {value.name for node in model.graph for value in node.inputs if value is not None}
    for name in [*model.graph.initializers]:
        if name not in used:
            model.graph.initializers.pop(name)
    return replaced


def _constant_weight(node: ir.Node) -> NDArray[np.float32] | None:
    """The weight (K, N) of a matrix product with a constant weight; None for any other node."""
    if node.op_type not in ("Gemm", "MatMul") or node.domain:
        return None
    constant = node.inputs[1].const_value if node.inputs[1] is not None else None
    if constant is None or len(constant.shape) != 2:
        return None
    values: NDArray[np.float32] = constant.numpy()
    if node.op_type == "MatMul":
        return values
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    if attributes.get("transA", 0) or attributes.get("alpha", 1) != 1:
        return None
    return values.T if attributes.get("transB", 0) else values


def _replace_product(graph: ir.Graph, node: ir.Node, weight: NDArray[np.float32]) -> None:
    """Replaces x W by a product in 8 bits: x scaled per row, W scaled per column."""
    name = node.outputs[0].name
    tape = ir.tape.Tape()

    def constant(part: str, values: Any, dtype: Any = np.float32) -> ir.Value:
        tensor = ir.tensor(np.array(values, dtype), name=f"{name}/{part}")
        value = ir.Value(
            name=tensor.name,
            const_value=tensor,
            shape=ir.Shape(np.shape(values)),
            type=ir.TensorType(tensor.dtype),
        )
        graph.register_initializer(value)
        return value

    x = node.inputs[0]
    column_scale = np.maximum(np.abs(weight).max(axis=0), _MIN_LARGEST) / _MAX_STEPS  # (N,)
    weight_steps = np.clip(np.rint(weight / column_scale), -_MAX_STEPS, _MAX_STEPS)
    largest = tape.op(
        "ReduceMax", [tape.op("Abs", [x]), constant("axes", [-1], np.int64)], {"keepdims": 1}
    )
    largest = tape.op("Max", [largest, constant("least", _MIN_LARGEST)])
    row_scale = tape.op("Mul", [largest, constant("step", 1 / _MAX_STEPS)])
    steps = tape.op("Round", [tape.op("Div", [x, row_scale])])
    steps = tape.op("Add", [steps, constant("middle", _INPUT_ZERO)])
    sums = tape.op(
        "MatMulInteger",
        [
            tape.op("Cast", [steps], {"to": ir.DataType.UINT8}),
            constant("weight", weight_steps, np.int8),
            constant("zero", _INPUT_ZERO, np.uint8),
            constant("weight_zero", 0, np.int8),
        ],
    )
    y = tape.op("Cast", [sums], {"to": ir.DataType.FLOAT})
    y = tape.op("Mul", [y, constant("scale", column_scale)])
    y = tape.op("Mul", [y, row_scale])
    if len(node.inputs) > 2 and node.inputs[2] is not None:  # the bias of a Gemm
        y = tape.op("Add", [y, node.inputs[2]])
    old = node.outputs[0]
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [old], [y])
