"""A serving checkpoint -> a folder of graphs: exported, checked, described.

`torch.onnx` traces the served layers (`lensemble.encoder.pytorch.fused_layers`) once, with sizes
that stay open. Weights lie beside the graphs, so they may be larger than the 2 GB that a protobuf
message holds.
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
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.encoder.synthetic_items import synthetic_mix
from lensemble_contract.errors import InvalidInputError
from lensemble_export.onnx.column_weights import transpose_weights
from lensemble_export.onnx.towers import TextGraph, VisionGraph

OPSET = 18
"""That `torch.onnx` writes without converting; ONNX Runtime has it since 1.14. With 23, which has
RMSNormalization, graphs were no faster."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Name -> precision of the weights. Those of 8 bits are made of fp32 (`quantize`)."""

_MADE_BY = ("torch", "onnx", "onnxscript", "transformers", "lensemble")
_PATCHES = 4
"""That make a token. A factor of the example only: the graph takes the model's own."""


def export_graphs(checkpoint: Checkpoint, out: Path, dtype: str = "fp32") -> ExportedGraphs:
    """Exports both towers. Holds the weights once, and one of them twice.

    Args:
        checkpoint: The serving checkpoint.
        out: Folder to write; must not exist, or be empty.
        dtype: A key of `DTYPES`.

    Raises:
        InvalidInputError: There is something in `out`, or no such `dtype`.
    """
    if dtype not in DTYPES:
        raise InvalidInputError(f"{dtype!r}; expected one of {', '.join(DTYPES)}", field="dtype")
    check_target(out)
    out.mkdir(parents=True, exist_ok=True)
    encoder = TorchEngine.load_for_export(checkpoint, DTYPES[dtype])
    transpose_weights(encoder.model)
    # A size of 1 in the example would be fixed: two of each item, and below two rows to pool.
    packed = encoder.pack(synthetic_mix(encoder.input_spec) * 2)
    pictures = range(len(packed.grid_thw))
    vision = VisionGraph(encoder)
    feeds = graph_inputs.vision_inputs(packed, pictures)
    with torch.inference_mode():
        seen = [one.numpy() for one in vision(*_tensors(feeds))]
    about = {"profile": checkpoint.profile.hash, "model_id": checkpoint.profile.model_id}
    about |= {f"version_{name}": version(name) for name in _MADE_BY}
    _write(vision, feeds, _vision_sizes(feeds), ("visual", "deepstack"), out / VISION, about)
    del vision
    encoder.model.visual = nn.Identity()  # it is written, and need not be held any longer
    feeds = graph_inputs.text_inputs(packed, encoder.profile, *seen)
    for name in ("pool_rows", "pool_weights"):
        feeds[name] = np.pad(feeds[name], ((0, 0), (0, 1)))
    _write(TextGraph(encoder), feeds, _text_sizes(), ("embedding",), out / TEXT, about)
    return describe(out, checkpoint.profile.hash, str(DTYPES[dtype]).removeprefix("torch."))


def check_target(out: Path) -> None:
    """Refuses a folder that has something in it.

    Raises:
        InvalidInputError: It has.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError(f"{str(out)!r} is not empty; expected a new folder", field="out")


def describe(folder: Path, profile: str, precision: str) -> ExportedGraphs:
    """Checks the graphs in a folder by ONNX' own checker, and writes down what they are.

    Args:
        folder: With both graphs.
        profile: Hash of the checkpoint's profile.
        precision: Of the weights.
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
        {name: version(name) for name in _MADE_BY},
    )
    graphs.write()
    return graphs


def _vision_sizes(feeds: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    patches = _PATCHES * Dim("visual_tokens", min=1)
    table = {0: Dim("pictures"), 1: Dim("longest")}
    tables = {"queries": table, "keys": table, "seen": {0: table[0]}}
    return {**{name: {0: patches} for name in feeds}, **tables}


def _text_sizes() -> dict[str, dict[int, Any]]:
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


def _tensors(feeds: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in feeds.values())


def _write(
    module: nn.Module,
    feeds: Mapping[str, Any],
    sizes: Mapping[str, dict[int, Any]],
    outputs: tuple[str, ...],
    path: Path,
    about: Mapping[str, str],
) -> None:
    """Exports one graph.

    Args:
        module: Whose arguments are the feeds, in order.
        feeds: An example of each input.
        sizes: Input -> axis -> name of its size, which stays open.
        outputs: Their names.
        path: Of the graph; weights lie beside it, as `<path>.data`.
        about: For the graph's metadata.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, on names of sizes that occur twice
        # Not strict: Dynamo, which `torch.onnx` goes on with where this fails, copies all weights.
        shapes = tuple(sizes[name] for name in feeds)
        traced = torch.export.export(
            module.eval(), _tensors(feeds), dynamic_shapes=shapes, strict=False
        )
        program: Any = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=OPSET,
            input_names=[*feeds],
            output_names=[*outputs],
            dynamic_shapes=shapes,  # whose names it takes
            external_data=True,
            verbose=False,
        )
    for value in (value for node in program.model.graph for value in node.outputs):
        if value.name in outputs and not value.is_graph_output():
            value.name += "_inside"  # the exporter calls what comes from an embedding table so, too
    program.model.metadata_props.update(about)
    program.save(str(path), external_data=True)
