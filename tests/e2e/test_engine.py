"""The real Triton with ONNX Runtime as its engine gives the reference's vectors and errors."""

import re
import urllib.request

import pytest

from lensemble.checkpoint import Checkpoint
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, InvalidInputError
from lensemble_contract.errors import LensembleError
from lensemble_export.onnx.export_graphs import export_graphs
from tests.conftest import EMBEDDING
from tests.parity.cases import CASES
from tests.waiting import DEADLINE_S

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def graphs(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine") / "graphs"
    export_graphs(Checkpoint.open(checkpoint), folder)
    return folder


@pytest.fixture(scope="module")
def onnx_server(checkpoint, graphs):
    with TritonServer(Settings(checkpoint=checkpoint, engine="onnx", onnx=graphs)) as server:
        yield server


def test_vectors_equal_the_references(onnx_server, expected):
    names = [name for name in CASES if name != "picture_huge"]
    with Client(onnx_server.grpc_url, timeout_s=DEADLINE_S) as client:
        for name, vector in zip(
            names, client.embed_many([CASES[name] for name in names]), strict=True
        ):
            assert not isinstance(vector, LensembleError), (name, vector)
            assert float(vector @ expected(EMBEDDING, name)) > 0.9999, name
        short = client.embed("a broken headlight", dimensions=64)
        assert short.shape == (64,)
        with pytest.raises(InvalidInputError):
            client.embed(image=b"no picture")


def test_metrics_name_the_engine(onnx_server):
    with urllib.request.urlopen(onnx_server.metrics_url) as answer:
        text = answer.read().decode()
    (line,) = re.findall(r'^lensemble_model_info\{.*triton_model="qwen3_vl".*$', text, re.M)
    assert 'engine="onnx"' in line and 'dtype="float32"' in line


def test_graphs_of_another_checkpoint_are_refused_at_the_start(checkpoints, graphs):
    settings = Settings(checkpoint=checkpoints["qwen3-vl-mean"], engine="onnx", onnx=graphs)
    with pytest.raises(LensembleError, match="were exported from profile"):
        TritonServer(settings).start()
