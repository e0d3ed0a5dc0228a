"""Cost, table and plot of a comparison with a fake server. No figure depends on its speed."""

import json

import numpy as np
import pytest

from lensemble_cli.main import main
from lensemble_client import Client, InvalidInputError
from lensemble_client.retry import Retry
from lensemble_contract import contract
from lensemble_evaluation import compare_report
from lensemble_evaluation.compare import compare_embedders, sample_queries
from lensemble_evaluation.comparison import Comparison, summarize_cost
from lensemble_evaluation.dataset import load_dataset
from lensemble_evaluation.plots import plot_comparison
from lensemble_evaluation.result_files import save_result

TEXTS = ("red", "green", "blue")


class FakeTransport:
    """A server whose native embedder tells colours apart and whose `clip` does not.

    The embedder `hybrid` is not loaded. `clip` refuses the text `refused`, and any instruction.
    """

    def __init__(self, refused=""):
        self.refused = refused
        self.calls = []

    def infer(self, model, rows, parameters, timeout_s):
        if parameters.get("ping"):
            return {}
        assert model.name != "embed_hybrid"
        text = rows["text"][0, 0].decode()
        self.calls.append((model.name, text, "instruction" in rows))
        if "instruction" in rows and model.name != "embed":
            raise InvalidInputError("it takes none", field="instruction")
        if text == self.refused and model.name == "embed_clip":
            raise InvalidInputError("too long", field="text")
        known = model.name == "embed" and text in TEXTS
        vector = np.eye(3, dtype=np.float32)[TEXTS.index(text) if known else 0]
        answer = {
            "embedding": vector[None],
            "profile": np.array([[f"sha256:{model.name}".encode()]], np.object_),
            "tokens": np.array([[5 if model.name == "embed" else 3]], np.int32),
            "preprocess_ms": np.ones((1, 1), np.float32),
            "encode_ms": np.ones((1, 1), np.float32),
        }
        return {tensor.name: answer[tensor.name] for tensor in model.outputs}

    def ready(self, model, timeout_s):
        return model != "embed_hybrid"

    def version(self, timeout_s):
        return "triton 0"

    def close(self):
        pass


@pytest.fixture
def folder(tmp_path):
    queries = [{"_id": f"q{t}", "text": t, "task": "find"} for t in TEXTS]
    queries[0]["instruction"] = "find the colour"
    for name, objects in (
        ("corpus.jsonl", [{"_id": t, "text": t} for t in TEXTS]),
        ("queries.jsonl", queries),
    ):
        (tmp_path / name).write_text("\n".join(map(json.dumps, objects)))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("".join(f"q{t}\t{t}\t1\n" for t in TEXTS))
    return tmp_path


def compare(folder, transport, **options):
    with Client(transport=transport, retry=Retry(tries=1)) as client:
        return compare_embedders(client, load_dataset(folder), list(contract.EMBEDDERS), **options)


def test_cost_follows_the_documented_formula():
    cost = summarize_cost([0.01 * n for n in range(1, 102)], [40, 10, 20], [2, 4], 7.2)
    assert cost.latency_ms == pytest.approx({"p50": 510, "p95": 960, "p99": 1000})
    assert cost.items_per_s == {"median": 20, "least": 10, "most": 40}
    assert (cost.samples, cost.blocks, cost.tokens_per_item) == (101, 3, 3)
    assert cost.server_s_per_1000 == 50
    assert cost.price_per_1000 == pytest.approx(0.1)  # 50 s of 7.20 an hour
    assert summarize_cost([1], [1], [1], None).price_per_1000 is None


def test_every_embedder_embeds_each_item_once(folder):
    transport = FakeTransport()
    comparison = compare(folder, transport, samples=2, concurrency=2)
    native, hybrid, clip = comparison.embedders
    assert hybrid.error == "the server has not loaded it"
    assert hybrid.cost is None
    for model in ("embed", "embed_clip"):
        texts = [text for name, text, _ in transport.calls if name == model]
        assert sorted(texts) == sorted([*TEXTS * 2, "warm up"])
    names = [name for name, _, _ in transport.calls]
    assert names[:6] == ["embed", "embed_clip"] * 3  # they take turns
    assert (native.without_instruction, clip.without_instruction) == (0, 1)
    assert ("embed", "red", True) in transport.calls
    assert (native.profile, native.dimension) == ("sha256:embed", 3)
    assert (native.cost.tokens_per_item, clip.cost.tokens_per_item) == (5, 3)
    assert (native.cost.samples, native.cost.blocks) == (2, 4)
    (row,) = native.quality
    assert (row.task, row.queries, row.metrics["recall@1"]) == ("find", 3, 1)
    # All scores are equal, so the greater id comes first. The order is "red", "green", "blue".
    (row,) = clip.quality
    assert row.metrics["recall@1"] == pytest.approx(1 / 3)
    assert row.metrics["recall@5"] == 1


def test_a_refused_item_is_named_and_ends_that_embedder_only(folder):
    native, _, clip = compare(folder, FakeTransport("green"), samples=1).embedders
    assert native.cost is not None
    assert clip.cost is None
    assert clip.error in ("text: 'green': too long", "text: 'qgreen': too long")


def test_the_table_has_all_embedders_side_by_side(folder):
    comparison = compare(folder, FakeTransport(), price_per_hour=1.5)
    lines = compare_report.format_table(comparison).splitlines()
    assert lines[0].endswith("split test: 3 items, 3 queries, triton 0")
    assert lines[2].split()[-1] == "price/1000"
    assert [line.split()[:2] for line in lines[3:5]] == [["native", "3"], ["clip", "3"]]
    quality = [line.split() for line in lines if line.startswith("find")]
    assert quality[0] == ["find", "native", "3", "1.000", "1.000", "1.000", "1.000"]
    assert quality[1][:4] == ["find", "clip", "3", "0.333"]
    assert "hybrid: no figures: the server has not loaded it" in lines
    assert "clip: takes no instruction; 1 items were embedded without theirs" in lines


def test_json_and_plot_hold_all_embedders(folder, tmp_path):
    comparison = compare(folder, FakeTransport())
    save_result(comparison, tmp_path / "comparison.json")
    saved = json.loads((tmp_path / "comparison.json").read_text())
    assert [result["embedder"] for result in saved["embedders"]] == ["native", "hybrid", "clip"]
    assert saved["embedders"][0]["cost"]["latency_ms"].keys() == {"p50", "p95", "p99"}
    (path,) = plot_comparison(comparison, tmp_path / "plots")
    assert path.name == "test-compare.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plot_comparison(Comparison("d", "s", "t", 1, 1, 1, None, []), tmp_path) == []


def test_the_sample_of_queries_is_always_the_same(folder):
    dataset = load_dataset(folder)
    sample = sample_queries(dataset, 2)
    assert sample == sample_queries(dataset, 2)
    assert len(sample.queries) == len(sample.qrels) == 2
    assert sample.corpus == dataset.corpus
    assert sample_queries(dataset, 99).queries == dataset.queries


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--embedders", "native,word2vec"], "embedder: 'word2vec'; expected one of native, hybri"),
        (
            ["--embedders", "clip,clip"],
            "embedders: ['clip', 'clip']; expected one name or more, each once",
        ),
        (["--concurrency", "0"], "concurrency: 0; expected 1 or more"),
        (["--samples", "0"], "samples: 0; expected 1 or more"),
        (["--queries", "0"], "queries: 0; expected 1 or more"),
        (["--price", "nan"], "price: nan; expected 0 or more"),
        (["--plots", "{dataset}/corpus.jsonl"], "output: cannot write the results"),
        (["--timeout", "2"], "failed to connect"),
    ],
)
def test_the_command_refuses_invalid_options(folder, capsys, options, message):
    options = [option.format(dataset=folder) for option in options]
    assert main(["compare", str(folder), "--url", "grpc://127.0.0.1:9", *options]) == 1
    assert message in capsys.readouterr().err
