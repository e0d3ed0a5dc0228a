"""The commands `onnx` and `verify-onnx` of `python -m lensemble_export`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lensemble_contract.errors import InternalError


def add_commands(commands: Any) -> None:
    """Adds `onnx` and `verify-onnx` to the command line of the export tools."""
    onnx = commands.add_parser("onnx", help="export the ONNX graphs of a serving checkpoint")
    onnx.add_argument("checkpoint", type=Path)
    onnx.add_argument(
        "out",
        type=Path,
        nargs="?",
        help="folder to write (default: CHECKPOINT/onnx, where servers look for graphs)",
    )
    onnx.add_argument("--dtype", default="fp32", help="fp32, fp16, bf16 or int8")
    onnx.set_defaults(run=_export)

    verify_onnx = commands.add_parser(
        "verify-onnx", help="compare graphs with the PyTorch encoder and with Transformers' model"
    )
    verify_onnx.add_argument("checkpoint", type=Path)
    verify_onnx.add_argument("graphs", type=Path, nargs="?", help="folder that `onnx` wrote")
    verify_onnx.set_defaults(run=_verify)


def _export(args: argparse.Namespace) -> None:
    from lensemble.checkpoint import Checkpoint
    from lensemble.settings import Settings
    from lensemble_export.onnx.export_graphs import export_graphs
    from lensemble_export.onnx.quantize import quantize
    from lensemble_export.output_folder import check_output_folder

    checkpoint = Checkpoint.open(args.checkpoint)
    out = Settings(checkpoint=args.checkpoint, onnx=args.out).graphs
    if args.dtype == "int8":
        check_output_folder(out)
        with TemporaryDirectory(dir=out.parent) as folder:
            graphs = quantize(export_graphs(checkpoint, Path(folder) / "fp32"), out)
    else:
        graphs = export_graphs(checkpoint, out, args.dtype)
    size = sum(size for _, size in graphs.files.values()) / 2**20
    print(f"{out}: {graphs.precision}, opset {graphs.opset}, {size:.1f} MiB")
    print(graphs.profile)


def _verify(args: argparse.Namespace) -> None:
    """Prints a table to standard error and one line of JSON to standard output.

    Raises:
        InvalidInputError: The graphs are damaged, or were exported from another checkpoint.
        InternalError: The graphs give other vectors than the reference.
    """
    from lensemble.checkpoint import Checkpoint
    from lensemble.encoder.onnx.graph_files import ExportedGraphs
    from lensemble.settings import Settings
    from lensemble_export.onnx.verify import MIN_COSINE, verify_graphs

    checkpoint = Checkpoint.open(args.checkpoint, full=True)
    folder = Settings(checkpoint=args.checkpoint, onnx=args.graphs).graphs
    graphs = ExportedGraphs.open(folder, checkpoint, full=True)
    result = verify_graphs(checkpoint, graphs, lambda line: print(line, file=sys.stderr))
    print(json.dumps(result, separators=(",", ":")))
    sys.stdout.flush()
    if not result["passed"]:
        raise InternalError(
            f"the smallest cosine is {result['min_cosine']}; expected at least "
            f"{MIN_COSINE[graphs.precision]}"
        )
