"""Exports a serving checkpoint as a folder of ONNX graphs, and checks them.

`torch.onnx` traces the layers that are served (`lensemble.encoder.pytorch.fused_layers`) once, with
dynamic sizes. Weights are in files of their own beside the graphs, because a protobuf message can
have at most 2 GB.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.export import Dim

from lensemble.checkpoint import Checkpoint, sha256_of
from lensemble.encoder.onnx import graph_inputs
from lensemble.encoder.onnx.graph_files import FILE, TEXT, VISION, ExportedGraphs
from lensemble.encoder.pytorch.load_torch_engine import load_for_export
from lensemble.encoder.synthetic_items import synthetic_mix
from lensemble_contract.errors import InvalidInputError
from lensemble_export.onnx.column_weights import transpose_weights
from lensemble_export.onnx.towers import TextGraph, VisionGraph
from lensemble_export.output_folder import check_output_folder

# `torch.onnx` writes this opset without a conversion, and ONNX Runtime supports it since 1.14.
# Opset 23, which has RMSNormalization, gave graphs that were no faster.
OPSET = 18

# Name -> precision of the weights. `quantize` makes weights in 8 bits from graphs in fp32.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Packages whose versions are recorded with the graphs.
_RECORDED_PACKAGES = ("torch", "onnx", "onnxscript", "transformers", "lensemble")
# Patches per visual token in the example inputs.
_PATCHES_PER_TOKEN = 4


def export_graphs(checkpoint: Checkpoint, out: Path, dtype: str = "fp32") -> ExportedGraphs:
    """Exports both towers; all weights are in memory once, and one weight at a time is there twice.

    Args:
        checkpoint: the serving checkpoint.
        out: folder to write; it must be missing or empty.
        dtype: name in `DTYPES`.

    Returns:
        The graphs that were written.

    Raises:
        InvalidInputError: `out` is not empty, or `dtype` is unknown.
    """
    if dtype not in DTYPES:
        raise InvalidInputError(f"{dtype!r}; expected one of {', '.join(DTYPES)}", field="dtype")
    check_output_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    encoder = load_for_export(checkpoint, DTYPES[dtype])
    transpose_weights(encoder.model)
    # If a size is 1 in the example inputs, the exporter makes it a constant. So the example has
    # every item twice.
    packed = encoder.pack(synthetic_mix(encoder.input_spec) * 2)
    pictures = range(len(packed.grid_thw))
    vision = VisionGraph(encoder)
    inputs = graph_inputs.vision_inputs(packed, pictures)
    with torch.inference_mode():
        vision_outputs = [output.numpy() for output in vision(*_tensors(inputs))]
    metadata = {"profile": checkpoint.profile.hash, "model_id": checkpoint.profile.model_id}
    metadata |= {f"version_{name}": version(name) for name in _RECORDED_PACKAGES}
    _export(vision, inputs, _vision_dims(inputs), ("visual", "deepstack"), out / VISION, metadata)
    del vision
    encoder.model.visual = nn.Identity()  # frees the weights that have been written
    inputs = graph_inputs.text_inputs(packed, encoder.profile, *vision_outputs)
    for name in ("pool_rows", "pool_weights"):  # for the same reason, two pooled rows per item
        inputs[name] = np.pad(inputs[name], ((0, 0), (0, 1)))
    _export(TextGraph(encoder), inputs, _text_dims(), ("embedding",), out / TEXT, metadata)
    return check_and_describe(
        out, checkpoint.profile.hash, str(DTYPES[dtype]).removeprefix("torch.")
    )


def check_and_describe(folder: Path, profile: str, precision: str) -> ExportedGraphs:
    """Checks the graphs in a folder with the checker of ONNX, and writes their description.

    Args:
        folder: folder with both graphs.
        profile: hash of the checkpoint's profile.
        precision: precision of the weights.
    """
    for name in (VISION, TEXT):
        onnx.checker.check_model(str(folder / name), full_check=True)
    files = sorted(path for path in folder.iterdir() if path.name != FILE)
    graphs = ExportedGraphs(
        folder,
        profile,
        precision,
        OPSET,
        {path.name: (sha256_of(path), path.stat().st_size) for path in files},
        {name: version(name) for name in _RECORDED_PACKAGES},
    )
    graphs.write()
    return graphs


def _vision_dims(inputs: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    patches = _PATCHES_PER_TOKEN * Dim("visual_tokens", min=1)
    table = {0: Dim("pictures"), 1: Dim("longest")}
    tables = {"queries": table, "keys": table, "seen": {0: table[0]}}
    return {**{name: {0: patches} for name in inputs}, **tables}


def _text_dims() -> dict[str, dict[int, Any]]:
    tokens, visual, blocks = Dim("tokens"), Dim("visual_tokens"), Dim("blocks")
    longest, keys, items, pooled = Dim("longest"), Dim("keys"), Dim("items"), Dim("pooled")
    return {
        "input_ids": {0: tokens},
        "position_ids": {1: tokens},
        "visual": {0: visual},
        "deepstack": {1: visual},
        "visual_index": {0: tokens},
        "queries": {0: blocks, 1: longest},
        "keys": {0: blocks, 1: keys},
        "seen": {0: blocks, 1: longest},
        "back": {0: tokens},
        "pool_rows": {0: items, 1: pooled},
        "pool_weights": {0: items, 1: pooled},
        "dimensions": {},
    }


def _tensors(inputs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values())


def _export(
    module: nn.Module,
    inputs: Mapping[str, Any],
    dims: Mapping[str, dict[int, Any]],
    outputs: tuple[str, ...],
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Exports one graph.

    Args:
        module: tower to trace; takes the inputs as positional arguments.
        inputs: name -> example of each input.
        dims: input -> axis -> symbol of its dynamic size.
        outputs: names of the outputs.
        path: file of the graph; its weights are written to `<path>.data`.
        metadata: metadata of the graph.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about symbols that occur repeatedly
        # Trace here and not in `torch.onnx.export`, which falls back to Dynamo after a failure:
        # Dynamo copies all weights.
        shapes = tuple(dims[name] for name in inputs)
        traced = torch.export.export(
            module.eval(), _tensors(inputs), dynamic_shapes=shapes, strict=False
        )
        program: Any = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=OPSET,
            input_names=[*inputs],
            output_names=[*outputs],
            dynamic_shapes=shapes,  # gives the dynamic sizes their names
            external_data=True,
            verbose=False,
        )
    for value in (value for node in program.model.graph for value in node.outputs):
        if value.name in outputs and not value.is_graph_output():
            # The exporter also gives the name `embedding` to the result of an embedding table.
            value.name += "_inside"
    program.model.metadata_props.update(metadata)
    program.save(str(path), external_data=True)
