"""Every config.pbtxt has the names, types and shapes of `contract.py`."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lensemble.operations.model_repository import packaged_models
from lensemble_contract import contract

FOLDERS = {path.name: path for path in packaged_models().iterdir() if path.is_dir()}
# Models for Triton's own ONNX Runtime backend, which are set up by hand (docs/export.md).
GRAPHS = {"qwen3_vl_text", "qwen3_vl_vision"}
# The first step of each ensemble. Only these have optional inputs.
FIRST_STEPS = ("preprocess", "clip_preprocess", "hybrid_preprocess")


def parse(folder: Path) -> model_config_pb2.ModelConfig:
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


CONFIGS = {name: parse(folder) for name, folder in FOLDERS.items()}
STEPS = [name for name, model in contract.ALL_MODELS.items() if not model.steps]
ENSEMBLES = [name for name, model in contract.ALL_MODELS.items() if model.steps]


def configured_tensors(tensors, with_optional=True):
    """Name, type, shape and `optional` of tensors of a config.pbtxt."""
    return [
        (
            tensor.name,
            model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_"),
            tuple(tensor.dims),
            tensor.optional if with_optional else False,
        )
        for tensor in tensors
    ]


def contract_tensors(tensors):
    """The same of tensors of the contract."""
    return [(tensor.name, tensor.dtype, tensor.dims, tensor.optional) for tensor in tensors]


def test_repository_holds_the_contracts_models():
    assert set(FOLDERS) - GRAPHS == set(contract.ALL_MODELS)


def test_every_embedder_is_the_same_from_outside():
    for model in contract.EMBEDDERS.values():
        native = contract.EMBED
        assert (model.inputs, model.outputs) == (native.inputs, native.outputs)
        assert model.parameters == native.parameters


@pytest.mark.parametrize("name", ENSEMBLES)
def test_no_ensemble_gives_a_tensor_that_a_later_step_takes(name):
    """Triton 2.51 waits for ever if a caller does not request such an output."""
    taken = {tensor for step in contract.ALL_MODELS[name].steps for tensor in _inputs(step)}
    given = {tensor.name for tensor in contract.ALL_MODELS[name].outputs}
    assert not given & taken


def test_every_output_of_ingest_comes_from_the_step_that_stores():
    """Triton drops a step of which nobody asked an output, and `ingest` must never answer unstored.

    The first output that an earlier step gave would be a way to be told 200 without a write.
    """
    *_, store = CONFIGS["ingest"].ensemble_scheduling.step
    assert store.model_name == "store"
    assert {tensor.name for tensor in contract.INGEST.outputs} <= set(store.output_map.values())


def _inputs(step):
    return {tensor.name for tensor in contract.ALL_MODELS[step].inputs}


@pytest.mark.parametrize("name", contract.ALL_MODELS)
def test_tensors_are_the_contracts(name):
    config, model = CONFIGS[name], contract.ALL_MODELS[name]
    assert config.name == name
    assert config.max_batch_size == contract.MAX_BATCH_SIZE
    assert configured_tensors(config.input) == contract_tensors(model.inputs)
    assert configured_tensors(config.output, with_optional=False) == contract_tensors(model.outputs)


@pytest.mark.parametrize("name", STEPS)
def test_contract_version_is_stated(name):
    stated = CONFIGS[name].parameters["contract_version"].string_value
    assert stated == str(contract.CONTRACT_VERSION)


@pytest.mark.parametrize("name", [name for name in STEPS if name not in FIRST_STEPS])
def test_batched_models_have_ragged_and_required_inputs(name):
    """A variable input without the flag, or an optional input, would prevent all batching."""
    config = CONFIGS[name]
    assert config.HasField("dynamic_batching")
    for tensor in config.input:
        assert tensor.allow_ragged_batch
        assert not tensor.optional


@pytest.mark.parametrize("name", contract.ALL_MODELS)
def test_settings_that_do_harm_in_triton_2_51_are_absent(name):
    config = CONFIGS[name]
    batching = config.dynamic_batching
    assert not batching.HasField("default_queue_policy")
    assert not batching.priority_levels
    assert not config.response_cache.enable


@pytest.mark.parametrize("name", ENSEMBLES)
def test_ensemble_maps_resolve(name):
    config, model = CONFIGS[name], contract.ALL_MODELS[name]
    steps = config.ensemble_scheduling.step
    assert tuple(step.model_name for step in steps) == model.steps
    known = {tensor.name: tensor for tensor in model.inputs}
    for step in steps:
        stage = contract.ALL_MODELS[step.model_name]
        inputs = {tensor.name: tensor for tensor in stage.inputs}
        outputs = {tensor.name: tensor for tensor in stage.outputs}
        assert dict(step.input_map) == {name: name for name in inputs}
        # Outputs that nobody uses are left out.
        mapped = dict(step.output_map)
        assert mapped
        assert all(mapped[name] in (name, f"carried_{name}") for name in mapped)
        assert all(_fits(known[tensor], inputs[tensor]) for tensor in inputs)
        known |= {mapped[name]: outputs[name] for name in mapped}
    assert all(known[tensor.name] == tensor for tensor in model.outputs)


def _fits(given, taken):
    """Whether a step may take a tensor that is given; a length of -1 is any length."""
    lengths = zip(given.dims, taken.dims, strict=True)
    return given.dtype == taken.dtype and all(have == want or want == -1 for have, want in lengths)


@pytest.mark.parametrize("name", contract.ALL_MODELS)
def test_version_folder_exists_and_model_py_is_thin(name):
    version = FOLDERS[name] / "1"
    assert version.is_dir()
    model = version / "model.py"
    assert model.exists() == (name in STEPS)
    if model.exists():
        assert len(model.read_text().splitlines()) <= 25
