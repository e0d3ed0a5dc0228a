from types import SimpleNamespace

import numpy as np
import pytest

from lensemble.index import Query
from lensemble.index.maintenance.create import write_index
from lensemble.index.search import device_copy
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble.stages.encode import EncodeStage
from lensemble.stages.preprocess import PreprocessStage
from lensemble.stages.search import SearchStage
from lensemble_client import InvalidInputError, Item, NotReadyError
from lensemble_contract.items import to_rows
from tests.pictures import encode, textured


@pytest.fixture(scope="module")
def settings(checkpoint, index_folder):
    return Settings(checkpoint=checkpoint, index=index_folder, dtype="fp32")


@pytest.fixture(scope="module")
def preprocess(settings):
    return PreprocessStage(settings, "cpu")


@pytest.fixture(scope="module")
def encode_stage(settings):
    return EncodeStage(settings, "cpu")


@pytest.fixture(scope="module")
def search(settings):
    return SearchStage(settings, "cpu")


@pytest.mark.parametrize(
    ("encoders", "dtype", "value_bytes"), [(1, "auto", 2), (2, "bf16", 2), (1, "fp32", 4)]
)
def test_index_on_a_gpu_leaves_room_for_the_encoders_weights(
    monkeypatch, settings, encoders, dtype, value_bytes
):
    """In the encoder's precision, which need not be that of the files."""
    from transformers import Qwen3VLModel

    model = Qwen3VLModel.from_pretrained(settings.checkpoint)
    weights = value_bytes * sum(each.numel() for each in model.parameters())
    assert weights > 1000
    asked = []

    def copy(snapshot, device, reserved_bytes):
        asked.append((str(device), reserved_bytes))
        return SimpleNamespace()

    monkeypatch.setattr(device_copy, "copy_to_device", copy)
    changed = settings.with_changes(encoder_instances=encoders, dtype=dtype)
    stage = SearchStage(changed, "cuda:1")
    assert asked == [("cuda:1", encoders * weights)]
    gauges = {gauge.name: gauge.value for gauge in stage.gauges()}
    assert gauges["lensemble_index_on_gpu"] == 1
    stage.close()


def test_on_the_cpu_no_copy_is_made(search):
    gauges = {gauge.name: gauge.value for gauge in search.gauges()}
    assert gauges["lensemble_index_on_gpu"] == 0


def test_chained_stages_equal_the_pipeline(preprocess, encode_stage, pipeline):
    picture = encode(textured(90, 130))
    items = [Item("uno"), Item(images=(picture,)), Item("tres", (picture, picture), "find")]
    read = preprocess.read(to_rows(items), {})
    assert list(read) == items
    features = preprocess.write(preprocess.run(read))
    rows = encode_stage.read(features, {})
    vectors = encode_stage.write(encode_stage.run(rows))["embedding"]
    np.testing.assert_allclose(vectors, np.stack(pipeline.embed(items)), atol=1e-6)


def test_bad_picture_is_an_error_of_its_row_only(preprocess):
    good, bad = preprocess.run([Item("a"), Item(images=(b"x",))])
    assert len(good.input_ids)
    assert isinstance(bad, InvalidInputError)


@pytest.mark.parametrize("dimensions", [100, "100"])
def test_dimensions_may_be_a_number_or_text(encode_stage, preprocess, dimensions):
    features = preprocess.write(preprocess.run([Item("a")]))
    (row,) = encode_stage.read(features, {"dimensions": dimensions})
    assert row[1] == 100


@pytest.mark.parametrize("dimensions", [True, 1.5, "x", [], {}])
def test_dimensions_that_are_no_whole_number_are_refused(encode_stage, preprocess, dimensions):
    features = preprocess.write(preprocess.run([Item("a")]))
    with pytest.raises(InvalidInputError, match=r"dimensions: .* is not a whole number"):
        encode_stage.read(features, {"dimensions": dimensions})


def test_each_query_of_a_batch_has_its_own_top_k(search):
    queries = np.eye(256, dtype=np.float32)[:2]
    few, many = search.run([Query(queries[0], 2), Query(queries[1], 5)])
    assert (len(few), len(many)) == (2, 5)
    rows = search.write([few, many])
    assert [rows[name].shape for name in ("ids", "scores", "documents")] == [(2, 5)] * 3
    assert (np.diff(rows["scores"]) <= 0).all()
    assert rows["ids"][0, 2:].tolist() == [b""] * 3
    assert all(rows["ids"][1])


@pytest.mark.parametrize("top_k", [0, -3, 1001])
def test_top_k_outside_its_limits_is_refused(search, top_k):
    with pytest.raises(InvalidInputError, match=f"top_k: {top_k}; expected 1 to 1000"):
        search.read({"embedding": np.eye(256, dtype=np.float32)[:1]}, {"top_k": top_k})


def test_query_of_another_length_is_refused(search):
    (refused,) = search.read({"embedding": np.ones((1, 64), np.float32)}, {})
    assert "the vector has 64 dimensions, the index 256" in str(refused)


def test_index_of_cut_vectors_cuts_the_query(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    full = rng.normal(size=(20, 256)).astype(np.float32)
    full /= np.linalg.norm(full, axis=1, keepdims=True)
    cut = full[:, :64] / np.linalg.norm(full[:, :64], axis=1, keepdims=True)
    ids = [str(n) for n in range(20)]
    write_index(tmp_path / "index", Profile.load(checkpoint), cut, ids, ["{}"] * 20)
    stage = SearchStage(Settings(checkpoint=checkpoint, index=tmp_path / "index"), "cpu")
    for queries, parameters in ((full, {}), (cut, {}), (cut, {"dimensions": 64})):
        hits = stage.run(stage.read({"embedding": queries}, {"top_k": 1, **parameters}))
        assert [of_query[0].id for of_query in hits] == ids
        assert [of_query[0].score for of_query in hits] == pytest.approx([1] * 20, abs=1e-5)
    for length in (128, 256):
        rows = stage.read({"embedding": full[:, :length]}, {"dimensions": length})
        assert {type(row) for row in rows} == {InvalidInputError}
        assert f"the vector has {length} dimensions, the index 64" in str(rows[0])


def test_empty_index_answers_without_hits(checkpoint, tmp_path):
    profile = Profile.load(checkpoint)
    write_index(tmp_path / "index", profile, np.empty((0, 256), np.float32), [], [])
    stage = SearchStage(Settings(checkpoint=checkpoint, index=tmp_path / "index"), "cpu")
    rows = stage.write(stage.run(stage.read({"embedding": np.eye(2, 256, dtype=np.float32)}, {})))
    assert rows["ids"].shape == (2, 0)


def test_without_index_search_is_not_ready(checkpoint):
    stage = SearchStage(Settings(checkpoint=checkpoint), "cpu")
    with pytest.raises(NotReadyError, match="no index is loaded"):
        stage.read({"embedding": np.ones((1, 256), np.float32)}, {})


def test_index_of_another_profile_is_refused_at_start(checkpoints, index_folder):
    settings = Settings(checkpoint=checkpoints["qwen3-vl-mean"], index=index_folder)
    with pytest.raises(InvalidInputError, match="they cannot be compared"):
        SearchStage(settings, "cpu")
