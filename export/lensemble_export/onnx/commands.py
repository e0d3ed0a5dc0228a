"""The commands `onnx` and `verify-onnx`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lensemble_contract.errors import InternalError


def add_commands(commands: Any) -> None:
    """Adds both to a command line."""
    onnx = commands.add_parser("onnx", help="make ONNX graphs of a serving checkpoint")
    onnx.add_argument("checkpoint", type=Path)
    onnx.add_argument(
        "out", type=Path, nargs="?", help="folder to write; CHECKPOINT/onnx, where servers look"
    )
    onnx.add_argument("--dtype", default="fp32", help="fp32, fp16, bf16 or int8")
    onnx.set_defaults(run=export)

    verify_onnx = commands.add_parser(
        "verify-onnx", help="compare graphs with the PyTorch encoder and with Transformers' model"
    )
    verify_onnx.add_argument("checkpoint", type=Path)
    verify_onnx.add_argument("graphs", type=Path, nargs="?", help="folder that `onnx` wrote")
    verify_onnx.set_defaults(run=verify)


def export(given: argparse.Namespace) -> None:
    """The command `onnx`.

    Args:
        given: `checkpoint`, `out`, `dtype`.

    Raises:
        InvalidInputError: The input is at fault.
        ImportError: The extra `export` is not installed.
    """
    from lensemble.checkpoint import Checkpoint
    from lensemble.settings import Settings
    from lensemble_export.onnx.export_graphs import check_target, export_graphs
    from lensemble_export.onnx.quantize import quantize

    checkpoint = Checkpoint.open(given.checkpoint)
    out = Settings(checkpoint=given.checkpoint, onnx=given.out).graphs
    if given.dtype == "int8":
        check_target(out)
        with TemporaryDirectory(dir=out.parent) as folder:
            graphs = quantize(export_graphs(checkpoint, Path(folder) / "fp32"), out)
    else:
        graphs = export_graphs(checkpoint, out, given.dtype)
    size = sum(size for _, size in graphs.files.values()) / 2**20
    print(f"{out}: {graphs.precision}, opset {graphs.opset}, {size:.1f} MiB")
    print(graphs.profile)


def verify(given: argparse.Namespace) -> None:
    """The command `verify-onnx`: a table to standard error, then one line of JSON.

    Args:
        given: `checkpoint`, `graphs`.

    Raises:
        InvalidInputError: The graphs are damaged, or another checkpoint's.
        InternalError: They give other vectors.
    """
    from lensemble.checkpoint import Checkpoint
    from lensemble.encoder.onnx.graph_files import ExportedGraphs
    from lensemble.settings import Settings
    from lensemble_export.onnx.verify import MIN_COSINE, verify_graphs

    checkpoint = Checkpoint.open(given.checkpoint, full=True)
    folder = Settings(checkpoint=given.checkpoint, onnx=given.graphs).graphs
    graphs = ExportedGraphs.open(folder, checkpoint, full=True)
    found = verify_graphs(checkpoint, graphs, lambda line: print(line, file=sys.stderr))
    print(json.dumps(found, separators=(",", ":")))
    sys.stdout.flush()
    if not found["passed"]:
        raise InternalError(
            f"a cosine of {found['min_cosine']}; expected at least {MIN_COSINE[graphs.precision]}"
        )
