"""Writing to the real server and reading back, over gRPC and over HTTP."""

import functools
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.common.photos import PHOTOS, read_photo, write_photos
from lensemble.operations.model_repository import write_repository
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_cli.main import main
from lensemble_client import Client, InvalidInputError, Item, NotFoundError, ReadOnlyError, Record
from lensemble_contract import contract
from lensemble_contract.errors import LensembleError
from tests.waiting import until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def writable(checkpoint, tmp_path_factory):
    """A server with an index that it created, two searchers, and compaction after 300 items."""
    folder = tmp_path_factory.mktemp("writable")
    settings = Settings(
        checkpoint=checkpoint,
        index=folder / "index",
        dtype="fp32",
        writes="on",
        compact_rows=300,
    )
    repository = write_repository(settings, folder / "models")
    config = repository / "faiss" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    with TritonServer(settings, repository=repository) as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def writer(writable, request):
    with Client(writable.grpc_url if request.param == "grpc" else writable.http_url) as client:
        yield client


@pytest.fixture
def profile(writer):
    return writer.stats()["profile_hash"]


def unit(seed, count, dimension=256):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ids(hits):
    return [hit.id for hit in hits]


def test_ingested_items_are_found_at_once_by_every_searcher(writer):
    photo = read_photo("coffee.png")
    sequence = writer.ingest("cup", image=photo, document={"kind": "cup", "year": 2019})
    for _ in range(8):  # the two instances take turns
        (hit,) = writer.search(image=photo, top_k=1)
        assert (hit.id, hit.document) == ("cup", {"kind": "cup", "year": 2019})
        assert hit.score == pytest.approx(1, abs=1e-4)
    assert writer.ingest("cup", image=photo, document={"kind": "cup", "year": 2019}) == sequence
    changed = writer.ingest("cup", image=photo, document={"kind": "mug"})
    assert changed > sequence
    assert [hit.document for hit in writer.search(image=photo, top_k=1)] == [{"kind": "mug"}]
    stored = writer.get("cup")
    assert (stored.document, stored.sequence) == ({"kind": "mug"}, changed)
    assert np.allclose(stored.embedding, writer.embed(image=photo), atol=1e-5)
    assert writer.delete(["cup", "never there"]) == [changed + 1, 0]
    for _ in range(8):
        assert "cup" not in ids(writer.search(image=photo, top_k=20))
    with pytest.raises(NotFoundError, match="no item 'cup' in the index"):
        writer.get("cup")


def test_items_are_listed_counted_and_their_documents_changed(writer, profile):
    names = [f"l/{n:04}" for n in range(1200)]
    documents = [{"set": "l", "n": n} for n in range(1200)]
    writer.upsert(names, unit(5, 1200), documents, profile=profile)
    listed = [item for item in writer.list_items({"set": "l"})]
    assert [(item.id, item.document) for item in listed] == list(zip(names, documents, strict=True))
    assert writer.count({"set": "l", "n": {"$gte": 1000}}) == 200
    before = writer.get(names[7])
    sequence = writer.patch(names[7], {"sold": True, "n": None})
    after = writer.get(names[7])
    assert (after.document, after.sequence) == ({"set": "l", "sold": True}, sequence)
    np.testing.assert_array_equal(after.embedding, before.embedding)
    for _ in range(4):  # the two searchers take turns
        (hit,) = writer.search_vector(before.embedding, top_k=1, filter={"sold": True})
        assert (hit.id, hit.document) == (names[7], {"set": "l", "sold": True})
    with pytest.raises(NotFoundError):
        writer.patch("never there", {})
    writer.delete(names)
    assert writer.count({"set": "l"}) == 0


def test_filter_exclude_min_score_and_more_like(writer, profile):
    vectors = unit(1, 40)
    names = [f"f/{n}" for n in range(40)]
    documents = [{"set": "f", "n": n, "tags": ["even" if n % 2 == 0 else "odd"]} for n in range(40)]
    writer.upsert(names, vectors, documents, profile=profile)
    order = np.argsort(-(vectors @ vectors[7]))
    odd = [names[n] for n in order if n % 2]
    condition = {"set": "f", "tags": {"$contains": "odd"}}
    hits = writer.search_vector(vectors[7], top_k=20, filter=condition)
    assert ids(hits) == odd
    hits = writer.search_vector(vectors[7], top_k=3, filter=condition, exclude=odd[:2])
    assert ids(hits) == odd[2:5]
    assert ids(writer.search_vector(vectors[7], filter={"set": "f"}, min_score=0.99)) == ["f/7"]
    assert ids(writer.more_like("f/7", top_k=4, filter=condition)) == odd[1:5]
    assert ids(writer.search("anything", top_k=5, filter={"set": "f", "n": {"$gte": 38}})) in (
        ["f/38", "f/39"],
        ["f/39", "f/38"],
    )
    with pytest.raises(NotFoundError, match="no item 'nobody'"):
        writer.more_like("nobody")
    with pytest.raises(InvalidInputError, match=r"filter: 'n' has '\$near'; expected one of"):
        writer.search("anything", filter={"n": {"$near": 3}})
    with pytest.raises(InvalidInputError, match="min_score: 'nan'; expected a finite number"):
        writer.search("anything", min_score=float("nan"))
    writer.delete(names)
    assert writer.search_vector(vectors[7], filter={"set": "f"}) == []


def test_request_is_written_completely_or_not_at_all(writer, profile):
    before = writer.stats()["sequence"]
    vectors = unit(2, 64)
    invalid = vectors.copy()
    invalid[40] *= 2
    with pytest.raises(InvalidInputError, match=r"has length 2; expected 1.*row 40 of 64"):
        writer.upsert([f"g/{n}" for n in range(64)], invalid, profile=profile)
    with pytest.raises(InvalidInputError, match=r"id.*has 513 bytes; expected 1 to 512"):
        writer.upsert(["x" * 513], vectors[:1], profile=profile)
    with pytest.raises(InvalidInputError, match="the vector has 64 dimensions, the index 256"):
        writer.upsert(["x"], vectors[:1, :64], profile=profile)
    assert writer.stats()["sequence"] == before
    assert len(set(writer.upsert([f"g/{n}" for n in range(64)], vectors, profile=profile))) == 64
    writer.delete([f"g/{n}" for n in range(64)])


def test_error_about_vectors_of_another_profile_names_both_profiles(writer, profile):
    other = "sha256:" + "0" * 64
    for call in (
        lambda: writer.upsert(["x"], unit(3, 1), profile=other),
        lambda: writer.search_vector(unit(3, 1)[0], profile=other),
    ):
        with pytest.raises(InvalidInputError, match="cannot be compared") as caught:
            call()
        assert profile in str(caught.value)
        assert other in str(caught.value)
    writer.upsert(["same profile"], unit(3, 1), profile=profile)
    assert ids(writer.search_vector(unit(3, 1)[0], profile=profile, top_k=1)) == ["same profile"]
    writer.delete(["same profile"])


def test_repeated_ingest_many_encodes_only_new_items(writer, writable):
    def records():
        for n in range(12):
            yield Record(f"m/{n}", Item(f"note number {n}"), {"n": n})

    first = writer.ingest_many(list(records())[:5])
    encoded = inferences(writable, "qwen3_vl")
    invalid = Record("m/bad", Item(images=(b"no picture",)))
    results = writer.ingest_many([*records(), invalid], progress=False)
    assert results[:5] == first
    assert inferences(writable, "qwen3_vl") == encoded + 7
    assert isinstance(results[12], InvalidInputError)
    assert all(isinstance(sequence, int) and sequence for sequence in results[:12])
    assert writer.ingest_many(records(), resume=False) == results[:12]
    assert writer.get("m/11").document == {"n": 11}
    writer.delete([f"m/{n}" for n in range(12)])


def inferences(server, model):
    """Number of items that a model has processed."""
    with urllib.request.urlopen(f"{server.http_url}/v2/models/{model}/stats") as answer:
        return json.load(answer)["model_stats"][0]["inference_count"]


def test_snapshots_are_made_in_the_background_while_writes_and_searches_go_on(writer, profile):
    vectors = unit(4, 700)
    names = [f"s/{n}" for n in range(700)]
    before = (writer.stats()["snapshot"] or {}).get("name")
    for start in range(0, 700, 64):
        writer.upsert(names[start : start + 64], vectors[start : start + 64], profile=profile)
        (hit,) = writer.search_vector(vectors[start], top_k=1)
        assert hit.id == names[start]

    def is_compacted():
        # The first new snapshot may have been made in the middle of the writes.
        assert ids(writer.search_vector(vectors[650], top_k=1)) == ["s/650"]
        stats = writer.stats()
        name = (stats["snapshot"] or {}).get("name")
        return name != before and max(stats["written_since"], stats["removed_since"]) < 300

    until(is_compacted, "the compaction")
    for n in (0, 350, 699):
        assert ids(writer.search_vector(vectors[n], top_k=1)) == [names[n]]
    assert writer.stats()["snapshot"]["kind"] == "exact"
    writer.delete(names)
    assert not {hit.id for hit in writer.search_vector(vectors[0], top_k=100)} & set(names)


def test_another_server_follows_the_same_index(writable, writer, checkpoint, profile):
    settings = Settings(checkpoint=checkpoint, index=writable_index(writable), dtype="fp32")
    vectors = unit(5, 30)
    with TritonServer(settings) as second, Client(second.grpc_url) as reader:
        for n in range(30):
            writer.upsert([f"t/{n}"], vectors[n : n + 1], [{"n": n}], profile=profile)
            (hit,) = reader.search_vector(vectors[n], top_k=1)
            assert (hit.id, hit.document) == (f"t/{n}", {"n": n})
            writer.delete([f"t/{n}"])
            assert f"t/{n}" not in ids(reader.search_vector(vectors[n], top_k=1))
        with pytest.raises(ReadOnlyError, match="takes no writes; start it with --writes"):
            reader.delete(["t/0"])
        with pytest.raises(ReadOnlyError):
            reader.ingest("x", "text")
        assert reader.stats()["profile_hash"] == profile


def writable_index(server):
    return server._settings.index


def kserve_ingest(server, id_, outputs=(), parameters=None):
    """Sends an item as a caller without this package; returns the outputs by their names.

    Raises:
        urllib.error.HTTPError: The server refused it.
    """
    body = {
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a red car"]},
            {"name": "id", "datatype": "BYTES", "shape": [1, 1], "data": [id_]},
            {"name": "document", "datatype": "BYTES", "shape": [1, 1], "data": ['{"n": 1}']},
        ],
        "outputs": [{"name": name} for name in outputs],
        "parameters": parameters or {},
    }
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/ingest/infer", json.dumps(body).encode()
    )
    with urllib.request.urlopen(request) as answer:
        return {tensor["name"]: tensor for tensor in json.load(answer)["outputs"]}


def test_raw_kserve_ingest(writable):
    outputs = kserve_ingest(writable, "raw")
    assert set(outputs) == {tensor.name for tensor in contract.INGEST.outputs}
    assert outputs["sequence"]["datatype"] == "INT64"
    assert outputs["tokens"]["data"][0] > 3
    assert outputs["encode_ms"]["data"][0] > 0 and outputs["preprocess_ms"]["data"][0] > 0
    with Client(writable.grpc_url) as client:
        assert client.get("raw").sequence == outputs["sequence"]["data"][0]
        client.delete(["raw"])


@pytest.mark.parametrize("output", [tensor.name for tensor in contract.INGEST.outputs])
def test_answer_of_ingest_means_that_the_item_is_stored_whatever_was_asked_for(writable, output):
    """Triton drops a step of which nobody asked an output."""
    assert set(kserve_ingest(writable, f"for {output}", [output])) == {output}
    with Client(writable.grpc_url) as client:
        assert client.get(f"for {output}").document == {"n": 1}
        client.delete([f"for {output}"])


@pytest.mark.parametrize("operation", ["get", "delete", "stats"])
def test_ingest_with_another_operation_is_refused(writable, operation):
    """Parameters reach every step, and an answer would look like that of a write."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        kserve_ingest(writable, "other", parameters={"operation": operation})
    with refused.value as answer:
        assert answer.code == 400
        assert "expected one of upsert" in json.load(answer)["error"]


HARD_DOCUMENTS = {
    "deep": functools.reduce(lambda inner, _: {"a": inner}, range(50), 1),
    "numbers": {"n": [2**63 - 1, -(2**63), 2**53 + 1, 1, 1.0, True, 1e16, -0.0, 5e-324]},
    "texts": {"": {"é😀\n\x7f": ["\u2028", "\\u0000", '"', "\x01"]}},
    "large": {"a": "x" * (65_536 - 8)},
}


@pytest.mark.parametrize("name", HARD_DOCUMENTS)
def test_hard_documents_come_back_unchanged(writer, name):
    document = HARD_DOCUMENTS[name]
    writer.ingest(name, "a text", document=document)
    (hit,) = writer.search("a text", top_k=1)
    for returned in (writer.get(name).document, hit.document):
        assert json.dumps(returned) == json.dumps(document)
    writer.delete([name])


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda client: client.ingest("a", "x", document={"n": 2**63}), "document"),
        (lambda client: client.ingest("a\0", "x"), "id"),
        (lambda client: client.search("x", top_k=2**63), "top_k"),
        (lambda client: client.embed("x", dimensions=2**63), "dimensions"),
        (lambda client: client.search("x", exclude=["\ud800"]), "exclude[0]"),
        (lambda client: client.search("x", filter={"tenant": "acme\0x"}), "filter"),
        (lambda client: client.more_like("acme\0x"), "like"),
        (lambda client: client.search_vector(unit(1, 1)[0] * 1000), "embedding"),
        (lambda client: client.search_vector(unit(1, 1)[0] * 0), "embedding"),
    ],
)
def test_values_that_could_not_come_back_are_refused_by_their_field(writer, ask, field):
    with pytest.raises(InvalidInputError) as caught:
        ask(writer)
    assert caught.value.field == field


def test_commands_with_a_corpus_of_photographs(writable, tmp_path, capsys):
    write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    server = ["--url", writable.grpc_url]
    assert main(["ingest", str(tmp_path / "photos"), *server]) == 1
    printed = capsys.readouterr()
    assert f"{len(PHOTOS)} of {len(PHOTOS) + 1} items stored" in printed.out
    assert "error: 'broken.jpg': image[0]" in printed.err
    assert main(["get", "coffee.png", *server]) == 0
    assert json.loads(capsys.readouterr().out)["document"]["file"] == "coffee.png"
    arguments = ["search", "--like", "coffee.png", "-k", "3", "--json", *server]
    assert main([*arguments, "--exclude", "china.jpg"]) == 0
    hit_ids = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert len(hit_ids) == 3
    assert not {"coffee.png", "china.jpg"} & set(hit_ids)
    arguments = ["search", "x", "--filter", '{"file": "rocket.jpg"}', "--json", *server]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "rocket.jpg"
    assert main(["search", "x", "--filter", "{", *server]) == 1
    assert "is not JSON" in capsys.readouterr().err
    assert main(["delete", *PHOTOS, *server]) == 0
    assert f"{len(PHOTOS)} of {len(PHOTOS)} items removed" in capsys.readouterr().out


def test_different_calls_in_one_batch_get_their_own_results(writable):
    """Valid writes, reads and invalid writes arrive at the same time."""
    with Client(writable.grpc_url) as client:
        profile = client.stats()["profile_hash"]
        vectors = unit(6, 60)

        def call(n):
            name = f"u/{n}"
            try:
                if n % 3 == 2:
                    return client.upsert([name], vectors[n : n + 1] * 3, profile=profile)
                (sequence,) = client.upsert([name], vectors[n : n + 1], profile=profile)
                assert client.get(name).sequence == sequence
                assert client.search_vector(vectors[n], top_k=1)[0].id == name
                return sequence
            except LensembleError as error:
                return error

        with ThreadPoolExecutor(12) as pool:
            results = list(pool.map(call, range(60)))
        for n, result in enumerate(results):
            assert isinstance(result, InvalidInputError) == (n % 3 == 2), result
        client.delete([f"u/{n}" for n in range(60)])
