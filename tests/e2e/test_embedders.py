"""The three embedders of one real server, which take the same calls; `lensemble compare`."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import numpy as np
import pytest

from lensemble.gateway.process import GatewayServer
from lensemble.gateway.settings import GatewaySettings
from lensemble_cli.main import main
from lensemble_client import (
    Client,
    InternalError,
    InvalidInputError,
    Item,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    calls,
)
from lensemble_client.retry import Retry
from lensemble_contract import contract
from lensemble_contract.items import to_rows
from tests.batches import Batches
from tests.clip_checkpoint import DIMENSION
from tests.fake_chat_server import COLOURS, TOKENS, description, plain
from tests.pictures import encode, textured
from tests.waiting import DEADLINE_S

pytestmark = pytest.mark.e2e

LENGTHS = {"native": 256, "hybrid": 384, "clip": DIMENSION}
EMBEDDERS = sorted(LENGTHS)


@pytest.fixture(autouse=True)
def chat_server_without_failures(chat):
    chat.reset()


@pytest.fixture(params=["grpc", "http"])
def client(everything, request):
    url = everything.grpc_url if request.param == "grpc" else everything.http_url
    with Client(url, retry=Retry(tries=1)) as running:
        yield running


def coloured(colour, n=0):
    """A picture of a colour; each n gives a different one."""
    return encode(plain(colour, 40 + n))


def items():
    texts = [Item(f"a {colour} text of {'many ' * n}words") for n, colour in enumerate(COLOURS)]
    pictures = [Item(images=(coloured(colour),)) for colour in COLOURS]
    both = [Item("both", (encode(textured(50, 40 + n), "JPEG"),) * (1 + n)) for n in range(3)]
    return texts + pictures + both


def test_server_has_all_embedders(client, everything, capsys):
    assert client.embedders() == ("native", "hybrid", "clip")
    assert set(client.status().models) == set(contract.MODELS)
    assert main(["status", "--url", everything.grpc_url]) == 0
    assert "embedders: native, hybrid, clip" in capsys.readouterr().out


@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_every_embedder_has_the_same_tensors(client, embedder):
    model = contract.EMBEDDERS[embedder]
    some = [Item("a text"), Item("red", (coloured("red"),)), Item(images=(coloured("blue"),) * 2)]
    rows = client.infer(model, to_rows(some), {}, DEADLINE_S)
    assert list(rows) == [tensor.name for tensor in contract.EMBED.outputs]
    assert rows["embedding"].shape == (3, LENGTHS[embedder])
    np.testing.assert_allclose(np.linalg.norm(rows["embedding"], axis=1), 1, atol=1e-5)
    assert rows["tokens"].shape == rows["preprocess_ms"].shape == (3, 1)
    assert (rows["tokens"] > 0).all()
    assert rows["profile"][0, 0].startswith(b"sha256:")
    measured = client.run(calls.measured(calls.embed(some, None, embedder)), DEADLINE_S)
    assert [one.tokens > 0 for one in measured] == [True] * 3
    assert set(measured[0].times_ms) == {"preprocess", "encode"}


def test_profiles_differ_and_are_published(client, everything):
    profiles = {
        name: client.infer(model, to_rows([Item("a")]), {}, DEADLINE_S)["profile"][0, 0].decode()
        for name, model in contract.EMBEDDERS.items()
    }
    assert len(set(profiles.values())) == 3
    with urllib.request.urlopen(everything.metrics_url) as answer:
        metrics = answer.read().decode()
    for name in ("hybrid", "clip"):
        (line,) = [line for line in metrics.splitlines() if f'embedder="{name}"' in line]
        assert line.startswith("lensemble_model_info{")
        assert profiles[name] in line
        assert f'dimension="{LENGTHS[name]}"' in line


@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_vector_does_not_depend_on_the_batch(client, embedder):
    alone = [client.embed(item.text, item.images or None, embedder=embedder) for item in items()]
    for batch_size in (1, 32):
        batched = client.embed_many(
            items(), embedder=embedder, concurrency=24, batch_size=batch_size
        )
        for vector, expected in zip(batched, alone, strict=True):
            np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("model", ["clip", "describe", "sentence"])
def test_texts_and_pictures_share_batches(everything, chat, model):
    chat.delay_s = 0.2  # a slow chat server, so that requests gather behind the first batch
    embedder = "clip" if model == "clip" else "hybrid"
    mixed = []
    for n in range(60):
        mixed += [Item(f"text {n}"), Item(images=(coloured("red", n),))]
    with (
        closing(Batches(everything, model)) as batches,
        Client(everything.grpc_url) as client,
    ):
        results = client.embed_many(mixed, embedder=embedder, concurrency=32, batch_size=1)
        done, executed = batches.since(120)
    assert len(results) == 120
    assert all(isinstance(result, np.ndarray) for result in results)
    assert done / executed > 2


def test_pictures_are_found_by_their_descriptions(client):
    """With real MiniLM weights, a description is nearest to a query in the same words."""
    queries = client.embed_many([Item(f"something {c}") for c in COLOURS], embedder="hybrid")
    pictures = client.embed_many([Item(images=(coloured(c),)) for c in COLOURS], embedder="hybrid")
    scores = np.stack(queries) @ np.stack(pictures).T
    assert scores.argmax(axis=1).tolist() == list(range(len(COLOURS)))


@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_bad_item_fails_alone(client, embedder):
    some = [Item("good"), Item(images=(b"broken",)), Item(images=(coloured("green"),))]
    good, bad, other = client.embed_many(some, embedder=embedder)
    assert len(good) == len(other) == LENGTHS[embedder]
    assert isinstance(bad, InvalidInputError)
    assert bad.field == "image[0]"


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (500, NotReadyError),
        (429, OverloadedError),
        (422, InvalidInputError),
        ("empty", InternalError),
    ],
)
def test_failing_chat_server_fails_only_its_pictures(client, chat, failure, error):
    chat.failing = {"yellow": failure}
    unseen = np.random.default_rng().integers(100, 900)  # a picture that is not in the cache
    some = [
        Item("words"),
        Item(images=(coloured("yellow", unseen),)),
        Item(images=(coloured("red"),)),
    ]
    words, yellow, red = client.embed_many(some, embedder="hybrid")
    assert len(words) == len(red) == 384
    assert isinstance(yellow, error)
    assert "the chat server http://127.0.0.1:" in str(yellow)
    with ThreadPoolExecutor(2) as pool:
        others = [
            pool.submit(client.embed, None, coloured("yellow"), embedder=name)
            for name in ("native", "clip")
        ]
        assert [len(future.result()) for future in others] == [256, DIMENSION]


@pytest.mark.parametrize("embedder", ["hybrid", "clip"])
def test_options_that_an_embedder_lacks_are_refused(client, embedder):
    with pytest.raises(InvalidInputError, match=r"instruction: the embedder .* takes none"):
        client.embed("a", instruction="find", embedder=embedder)
    with pytest.raises(InvalidInputError, match=r"dimensions: 16; .* not trained to be cut"):
        client.embed("a", dimensions=16, embedder=embedder)
    vector = client.embed("a", dimensions=LENGTHS[embedder], embedder=embedder)
    assert len(vector) == LENGTHS[embedder]


def test_chat_tokens_are_counted(client, chat):
    unseen = coloured("white", np.random.default_rng().integers(100, 900))
    call = calls.measured(calls.embed([Item(images=(unseen,))], None, "hybrid"))
    first, again = (client.run(call, DEADLINE_S)[0].tokens for _ in range(2))
    assert first == again + TOKENS  # the second description comes from the cache
    assert len(chat.bodies) == 1


def test_embed_command_takes_an_embedder(everything, capsys):
    assert main(["embed", "words", "--embedder", "clip", "--url", everything.grpc_url]) == 0
    assert len(json.loads(capsys.readouterr().out)) == DIMENSION


def test_server_without_an_embedder_refuses_its_name(server):
    with Client(server.grpc_url) as client:
        assert client.embedders() == ("native",)
        with pytest.raises(NotFoundError, match="embed_clip"):
            client.embed("a", embedder="clip")


@pytest.fixture
def dataset(tmp_path):
    """A folder with a dataset of one picture for each colour; pictures and texts are queries."""
    (tmp_path / "images").mkdir()
    for n, colour in enumerate(COLOURS):
        # Sizes differ, so that a query's picture equals only its own picture in the corpus.
        plain(colour, 50 + n, 50).save(tmp_path / "images" / f"{colour}.png")
    corpus = [{"_id": c, "image": f"images/{c}.png"} for c in COLOURS]
    queries = [
        {"_id": "red words", "text": description("red"), "task": "words", "instruction": "find"},
        {"_id": "blue words", "text": description("blue"), "task": "words"},
        *({"_id": c, "image": f"images/{c}.png", "task": "picture"} for c in COLOURS),
    ]
    for name, objects in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, objects)))
    (tmp_path / "qrels").mkdir()
    judgments = ["red words\tred\t1", "blue words\tblue\t1", "blue words\twhite\t1"]
    judgments += [f"{c}\t{c}\t1" for c in COLOURS]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(judgments))
    return tmp_path


def test_compare_measures_three_embedders(everything, dataset, tmp_path, capsys):
    options = ["--samples", "4", "--concurrency", "4", "--price", "2", "--url", everything.grpc_url]
    out = ["--json", str(tmp_path / "comparison.json"), "--plots", str(tmp_path / "plots")]
    assert main(["compare", str(dataset), *options, *out]) == 0
    printed = capsys.readouterr().out
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert comparison["corpus"] == 6
    assert comparison["queries"] == 8
    assert comparison["price_per_hour"] == 2
    result_of = {result["embedder"]: result for result in comparison["embedders"]}
    assert list(result_of) == ["native", "hybrid", "clip"]
    for name, result in result_of.items():
        assert result["error"] == ""
        rows = {row["task"]: row["metrics"] for row in result["quality"]}
        assert rows["picture"]["recall@1"] == 1, name  # query and hit are the same picture
        cost = result["cost"]
        assert 0 < cost["latency_ms"]["p50"] <= cost["latency_ms"]["p95"]
        rate = cost["items_per_s"]
        assert 0 < rate["least"] <= rate["median"] <= rate["most"]
        assert cost["server_s_per_1000"] == pytest.approx(1000 / rate["median"])
        assert cost["price_per_1000"] == pytest.approx(2 * cost["server_s_per_1000"] / 3600)
        assert cost["tokens_per_item"] > 0
        assert result["without_instruction"] == (0 if name == "native" else 1)
        assert f"\n{name}" in printed
    # A query in the chat server's own words finds its picture first. The second query has two
    # relevant pictures, of which one is found first.
    words = {row["task"]: row["metrics"] for row in result_of["hybrid"]["quality"]}["words"]
    assert words["recall@1"] == pytest.approx((1 + 0.5) / 2)
    assert words["mrr"] == 1
    assert (tmp_path / "plots" / "test-compare.png").is_file()


def test_eval_refuses_instructions_that_an_embedder_lacks(everything, dataset, capsys):
    """Unlike `compare`, `eval` does not leave the instructions out."""
    assert main(["eval", str(dataset), "--embedder", "hybrid", "--url", everything.grpc_url]) == 1
    assert "instruction: 'red words'" in capsys.readouterr().err


def test_gateway_serves_all_three_by_name(everything):
    settings = GatewaySettings(triton=everything.grpc_url, metrics=everything.metrics_url, port=0)
    with (
        GatewayServer(settings) as gateway,
        httpx.Client(base_url=gateway.url, timeout=DEADLINE_S) as http,
    ):
        listed = http.get("/v1/models").json()["data"]
        assert {model["id"]: model["dimension"] for model in listed} == LENGTHS
        with Client(everything.grpc_url) as client:
            for name in LENGTHS:
                body = {"model": name, "input": ["a red hat", "nothing"]}
                response = http.post("/v1/embeddings", json=body).json()
                assert response["model"] == name
                vector = np.array(response["data"][0]["embedding"], np.float32)
                assert float(vector @ client.embed("a red hat", embedder=name)) > 0.9999
        refused = http.post("/v1/embeddings", json={"model": "bert", "input": "a"})
        assert refused.status_code == 404
        assert "native" in refused.json()["error"]["message"]
        assert http.get("/health").json()["device"] == "cpu"
