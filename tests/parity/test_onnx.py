"""ONNX graphs compared with Transformers' own model, and refusals of graphs that do not fit."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lensemble.checkpoint import Checkpoint
from lensemble.encoder import attention_table, choose_engine
from lensemble.encoder.onnx.graph_files import FILE, TEXT, VISION, ExportedGraphs
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_contract.errors import InvalidInputError
from lensemble_export.__main__ import main
from lensemble_export.onnx import export_graphs as exporter
from lensemble_export.onnx import verify
from lensemble_export.onnx.quantize import quantize
from lensemble_export.onnx.verification_cases import make_cases
from tests.conftest import EMBEDDING, MEAN
from tests.parity.cases import CASES
from tests.paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    """Graphs in fp32, one folder per profile."""
    folder = tmp_path_factory.mktemp("graphs")
    return {
        name: exporter.export_graphs(Checkpoint.open(path), folder / name)
        for name, path in checkpoints.items()
    }


@pytest.fixture(scope="module")
def small(exported, tmp_path_factory):
    """Graphs in 8 bits, of the default profile."""
    return quantize(exported[EMBEDDING], tmp_path_factory.mktemp("small") / "int8")


@pytest.mark.parametrize("profile", [EMBEDDING, MEAN])
def test_graphs_equal_the_reference(exported, checkpoints, profile):
    result = verify.verify_graphs(Checkpoint.open(checkpoints[profile]), exported[profile], print)
    assert result["passed"] and result["min_cosine"] >= 0.99999
    assert result["max_abs_diff"] < 1e-5
    assert result["cases"] >= 16


def test_vectors_of_picture_bytes_equal_the_reference(exported, checkpoint, expected):
    """From picture bytes to vectors; the reference uses its own processor and resizing."""
    settings = Settings(checkpoint=checkpoint, engine="onnx", onnx=exported[EMBEDDING].folder)
    pipeline = Pipeline(settings)
    assert (pipeline.encoder.engine_name, pipeline.encoder.precision) == ("onnx", "float32")
    names = ("text_spanish", "both", "picture_portrait", "several_pictures", "text")
    for name, vector in zip(names, pipeline.embed([CASES[name] for name in names]), strict=True):
        assert float(vector @ expected(EMBEDDING, name)) > 0.9999
    (cut,) = pipeline.embed([CASES["both"]], dimensions=64)
    whole = expected(EMBEDDING, "both")[:64]
    assert float(cut @ (whole / np.linalg.norm(whole))) > 0.9999


def test_a_leak_between_items_is_detected(exported, checkpoint, monkeypatch):
    """Queries that see one key too many must fail the verification."""
    causal_attention = attention_table.causal_attention

    def leaking(boundaries):
        table = causal_attention(boundaries)
        visible_keys = np.minimum(table.visible_keys + 1, table.key_rows.shape[1])
        return replace(table, visible_keys=visible_keys)

    monkeypatch.setattr(attention_table, "causal_attention", leaking)
    assert not verify.verify_graphs(Checkpoint.open(checkpoint), exported[EMBEDDING], print)[
        "passed"
    ]


def test_eight_bits_are_close_and_do_not_depend_on_the_batch(small, checkpoint):
    opened = Checkpoint.open(checkpoint)
    result = verify.verify_graphs(opened, small, print)
    assert result["passed"] and result["precision"] == "int8"
    assert result["min_cosine"] > 0.98  # random weights; benchmarks measure retrieval
    settings = Settings(checkpoint=checkpoint, engine="onnx", onnx=small.folder)
    encoder = choose_engine.load_engine(opened, settings)
    together = make_cases(encoder.input_spec)["all together"]
    alone = np.concatenate([encoder.vectors([item]) for item in together])
    np.testing.assert_allclose(encoder.vectors(together), alone, atol=1e-3)


def test_products_in_eight_bits_are_exact_integer_sums(small):
    kinds = [node.op_type for node in onnx.load(small.text, load_external_data=False).graph.node]
    assert kinds.count("MatMulInteger") == 4 * 4  # four products in each of four layers
    assert "Gemm" not in kinds


def test_graphs_name_their_checkpoint_and_versions(exported, checkpoints):
    graphs, checkpoint = exported[EMBEDDING], Checkpoint.open(checkpoints[EMBEDDING])
    model = onnx.load(graphs.text, load_external_data=False)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    assert metadata["profile"] == checkpoint.profile.hash
    assert metadata["version_torch"] == graphs.versions["torch"]
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", exporter.OPSET)}
    with pytest.raises(InvalidInputError, match="were exported from profile sha256:"):
        ExportedGraphs.open(graphs.folder, Checkpoint.open(checkpoints[MEAN]))


@pytest.mark.parametrize(("model", "graph"), [("qwen3_vl_vision", VISION), ("qwen3_vl_text", TEXT)])
def test_tritons_configuration_matches_the_graph(exported, model, graph):
    """For the ONNX Runtime backend of NVIDIA's image, which is not in the bundled server."""
    text = (ROOT / "model_repository" / model / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.default_model_filename) == (model, graph)
    proto = onnx.load(exported[EMBEDDING].folder / graph, load_external_data=False).graph
    for configured, exported_tensors in (
        (config.input, proto.input),
        (config.output, proto.output),
    ):
        assert [tensor.name for tensor in configured] == [
            tensor.name for tensor in exported_tensors
        ]
        for tensor, value in zip(configured, exported_tensors, strict=True):
            kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
            name = model_config_pb2.DataType.Name(tensor.data_type)
            assert name == f"TYPE_{ {'FLOAT': 'FP32'}.get(kind, kind) }"
            sizes = value.type.tensor_type.shape.dim
            assert len(tensor.dims) == len(sizes)
            for dim, size in zip(tensor.dims, sizes, strict=True):
                assert dim == -1 or dim == size.dim_value
                assert dim == -1 or not size.dim_param


def test_a_changed_graph_is_refused(exported, checkpoint, tmp_path):
    opened = Checkpoint.open(checkpoint)
    with pytest.raises(InvalidInputError, match=r"has no export\.json"):
        ExportedGraphs.open(tmp_path, opened)
    graphs = replace(exported[EMBEDDING], folder=tmp_path)
    for name in (VISION, TEXT):
        for path in (
            exported[EMBEDDING].folder / name,
            exported[EMBEDDING].folder / f"{name}.data",
        ):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    graphs.write()
    assert ExportedGraphs.open(tmp_path, opened, full=True) == graphs
    weights = tmp_path / f"{TEXT}.data"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    with pytest.raises(InvalidInputError, match=r"text\.onnx\.data' is not the file"):
        ExportedGraphs.open(tmp_path, opened, full=True)
    replace(graphs, files={VISION: graphs.files[VISION]}).write()
    with pytest.raises(InvalidInputError, match=r"does not list 'text\.onnx'"):
        ExportedGraphs.open(tmp_path, opened)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InvalidInputError, match="expected what"):
        ExportedGraphs.open(tmp_path, opened)


def test_the_command_line_verifies_and_refuses(exported, checkpoint, tmp_path, capsys):
    graphs = str(exported[EMBEDDING].folder)
    assert main(["verify-onnx", str(checkpoint), graphs]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out.strip().splitlines()[-1])
    assert result["passed"]
    assert all(name in printed.err for name in ("one token", "picture: thin", "33 items"))
    assert main(["onnx", str(checkpoint), graphs]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert main(["onnx", str(checkpoint), str(tmp_path / "x"), "--dtype", "fp8"]) == 1
    assert "'fp8'; expected one of" in capsys.readouterr().err


def test_graphs_that_onnx_runtime_cannot_run_are_refused(checkpoint, tmp_path, capsys):
    """On CPUs, ONNX Runtime cannot compute bf16; it computes fp16 in fp32."""
    graphs = str(tmp_path / "graphs")
    assert main(["onnx", str(checkpoint), graphs, "--dtype", "bf16"]) == 0
    assert main(["verify-onnx", str(checkpoint), graphs]) == 1
    assert "onnx: ONNX Runtime cannot run" in capsys.readouterr().err


def test_a_cosine_below_the_limit_is_exit_status_1(exported, checkpoint, monkeypatch, capsys):
    monkeypatch.setitem(verify.MIN_COSINE, "float32", 1.1)
    assert main(["verify-onnx", str(checkpoint), str(exported[EMBEDDING].folder)]) == 1
    assert "expected at least 1.1" in capsys.readouterr().err
