"""Evaluation over a fake server whose vectors and hits are written down here."""

import json

import numpy as np
import pytest

from lensemble_cli.main import main
from lensemble_client import Client, InvalidInputError
from lensemble_evaluation import report
from lensemble_evaluation.dataset import load_dataset
from lensemble_evaluation.evaluate import evaluate
from lensemble_evaluation.plots import plot_evaluation

VECTORS = {
    "north": (0, 1, 0),
    "north-east": (0.8, 0.6, 0),
    "east": (1, 0, 0),
    "up": (0, 0, 1),
    # Nearest to up at full length, to east when cut to two.
    "mostly up, a little east": (0.1, 0.0, 0.99),
    "to the north": (0.1, 0.99, 0),
}
CORPUS = ("north", "north-east", "east", "up")


class FakeTransport:
    """Looks vectors up; its index holds `indexed` and ranks as the vectors do."""

    def __init__(self, indexed=CORPUS):
        self._indexed = indexed
        self.asked = []

    def infer(self, model, rows, parameters, timeout_s):
        if parameters.get("ping"):
            return {}
        text = rows["text"][0, 0].decode()
        if text not in VECTORS:
            raise InvalidInputError("no such direction", field="text")
        vector = np.array([VECTORS[text]], np.float32)
        if model.name == "embed":
            if parameters.get("dimensions", 3) > 3:
                raise InvalidInputError("4; this profile gives 2 to 3", field="dimensions")
            return {"embedding": vector}
        self.asked.append(parameters["top_k"])
        scores = {id_: float(vector[0] @ np.array(VECTORS[id_])) for id_ in self._indexed}
        ids = sorted(scores, key=scores.get, reverse=True)[: parameters["top_k"]]
        return {
            "ids": np.array([[id_.encode() for id_ in ids]], np.object_),
            "scores": np.array([[scores[id_] for id_ in ids]], np.float32),
            "documents": np.array([[b"{}"] * len(ids)], np.object_),
        }

    def ready(self, model, timeout_s):
        return True

    def version(self, timeout_s):
        return "triton 0"

    def close(self):
        pass


@pytest.fixture
def folder(tmp_path):
    queries = [
        {"_id": "q1", "text": "to the north", "task": "find", "language": "en"},
        {"_id": "q2", "text": "mostly up, a little east", "task": "find", "language": "es"},
        {"_id": "q3", "text": "north", "task": "other", "exclude": ["north"]},
    ]
    lines = {
        "corpus.jsonl": [{"_id": name, "text": name} for name in CORPUS],
        "queries.jsonl": queries,
    }
    for name, objects in lines.items():
        (tmp_path / name).write_text("\n".join(map(json.dumps, objects)))
    (tmp_path / "qrels").mkdir()
    judged = "q1\tnorth\t1\nq2\tup\t1\nq3\tnorth-east\t1\nq3\teast\t1\n"
    (tmp_path / "qrels" / "test.tsv").write_text(judged)
    return tmp_path


@pytest.fixture
def dataset(folder):
    return load_dataset(folder, "test")


def measured(dataset, transport=None, **options):
    with Client(transport=transport or FakeTransport()) as client:
        return evaluate(client, dataset, **options)


def test_ranks_are_exact(dataset):
    found = measured(dataset)
    assert (found.corpus, found.server, found.split) == (4, "triton 0", "test")
    assert found.row("find").metrics["mrr"] == 1
    assert found.row("find").queries == 2
    assert found.row("find", "es").queries == 1
    # Without "north" itself: north-east is nearest; east and up have equal scores, and of equal
    # ones the greater id stands first.
    other = found.row("other").metrics
    assert other["recall@1"] == 0.5
    assert other["recall@5"] == 1
    assert other["mrr"] == 1


def test_cut_vectors_rank_otherwise(dataset):
    found = measured(dataset, dimensions=[3, 2])
    assert found.row("find", "es", 3).metrics["recall@1"] == 1
    assert found.row("find", "es", 2).metrics["recall@1"] == 0


def test_length_beyond_the_vectors_is_refused(dataset):
    with pytest.raises(InvalidInputError, match="dimensions: 4; this profile gives 2 to 3"):
        measured(dataset, dimensions=[4])


def test_search_ranks_as_the_index_does(dataset):
    transport = FakeTransport()
    found = measured(dataset, transport, through="search")
    assert [row.dimensions for row in found.rows] == [0] * len(found.rows)
    assert found.row("find").metrics["mrr"] == 1
    assert found.row("other").metrics["recall@1"] == 0.5
    assert sorted(transport.asked) == [100, 100, 101]  # one more for what is dropped


def test_index_of_something_else_is_refused(dataset, monkeypatch):
    monkeypatch.setitem(VECTORS, "west", (-1, 0, 0))
    with pytest.raises(InvalidInputError, match="index holds 'west', which is not in the dataset"):
        measured(dataset, FakeTransport((*CORPUS, "west")), through="search")


def test_candidates_are_all_that_counts(folder):
    (folder / "candidates").mkdir()
    (folder / "candidates" / "test.txt").write_text("north\nup\nnorth-east\neast\n")
    lines = (folder / "corpus.jsonl").read_text()
    more = json.dumps({"_id": "to the north", "text": "to the north"})
    (folder / "corpus.jsonl").write_text(f"{lines}\n{more}")
    dataset = load_dataset(folder, "test")
    transport = FakeTransport((*CORPUS, "to the north"))
    assert measured(dataset, transport, through="search").row("find", "en").metrics["mrr"] == 1
    assert measured(dataset).row("find", "en").metrics["mrr"] == 1
    (folder / "candidates" / "test.txt").unlink()  # now the query finds itself first
    assert measured(load_dataset(folder)).row("find", "en").metrics["mrr"] == 1 / 2


def test_items_beyond_the_depth_are_not_found(dataset, monkeypatch):
    monkeypatch.setattr("lensemble_evaluation.ranking.DEPTH", 1)
    found = measured(dataset, through="search")
    assert found.row("other").metrics["recall@5"] == 0.5


def test_baseline_of_another_split_is_refused(dataset):
    with pytest.raises(InvalidInputError, match=r"measured on '.*', split 'test'; this is 'other'"):
        report.check_baseline(measured(dataset), "other", "test")


def test_search_is_compared_with_the_longest_vectors(dataset):
    before = measured(dataset, dimensions=[2, 3])
    table = report.format_table(measured(dataset, through="search"), before)
    (line,) = [line for line in table.splitlines() if line.split()[:2] == ["find", "es"]]
    assert line.split()[2:6] == ["-", "1", "1.000", "(+0.000)"]  # at 2 dimensions it was 0


def test_query_that_cannot_be_embedded_is_named(folder):
    lines = (folder / "queries.jsonl").read_text().replace("to the north", "nowhere")
    (folder / "queries.jsonl").write_text(lines)
    with pytest.raises(InvalidInputError, match="text: 'q1': no such direction"):
        measured(load_dataset(folder, "test"))


def test_table_shows_what_changed_since_the_baseline(dataset, tmp_path):
    report.save(measured(dataset, dimensions=[2]), tmp_path / "before.json")
    before = report.load(tmp_path / "before.json")
    lines = report.format_table(measured(dataset, dimensions=[2, 3]), before).splitlines()
    assert "4 items searched through embed" in lines[0]
    (cut,) = [line for line in lines if line.split()[:3] == ["find", "es", "2"]]
    assert cut.split()[4:6] == ["0.000", "(+0.000)"]
    (full,) = [line for line in lines if line.split()[:3] == ["find", "es", "3"]]
    assert full.split()[4] == "1.000"  # no such row before: no difference
    assert "(" not in full


@pytest.mark.parametrize(
    "text",
    ["[]", "no", '{"rows": [{}]}', '{"rows": [{"task": "t", "metrics": null}]}', "[" * 100_000],
)
def test_baseline_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InvalidInputError, match="not an evaluation"):
        report.load(tmp_path / "x.json")


def test_plots_are_drawn_where_there_is_something_to_compare(dataset, tmp_path):
    both = plot_evaluation(measured(dataset, dimensions=[2, 3]), tmp_path / "plots")
    assert [path.name for path in both] == ["test-by-dimension.png", "test-by-language.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in both)
    (one,) = plot_evaluation(measured(dataset), tmp_path / "plots")
    assert one.name == "test-by-language.png"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dimensions", "many"], "dimensions: 'many'; expected whole numbers"),
        (["--dimensions", "2", "--through", "search"], "an index has one length"),
        (["--dimensions", "0"], "dimensions: '0'; expected whole numbers above 0"),
        (["--split", "dev"], "split: 'dev' is not one of test"),
        (["--plots", "{dataset}/corpus.jsonl"], "output: cannot write there"),
        (["--url", "grpc://127.0.0.1:9", "--concurrency", "0"], "concurrency: 0; expected 1"),
        (["--url", "grpc://127.0.0.1:9", "--timeout", "2"], "failed to connect"),
    ],
)
def test_command_refuses_what_it_cannot_do(folder, capsys, options, said):
    options = [option.format(dataset=folder) for option in options]
    assert main(["eval", str(folder), *options]) == 1
    assert said in capsys.readouterr().err
