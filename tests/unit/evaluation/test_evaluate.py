"""Evaluations with a fake server whose vectors and hits are defined here."""

import json

import numpy as np
import pytest

from lensemble_cli.main import main
from lensemble_client import Client, InvalidInputError
from lensemble_evaluation import report
from lensemble_evaluation.dataset import load_dataset
from lensemble_evaluation.evaluate import evaluate
from lensemble_evaluation.plots import plot_evaluation
from lensemble_evaluation.result_files import load_evaluation, save_result

VECTORS = {
    "north": (0, 1, 0),
    "north-east": (0.8, 0.6, 0),
    "east": (1, 0, 0),
    "up": (0, 0, 1),
    # Nearest to "up" at full length, and to "east" when cut to two dimensions.
    "mostly up, a little east": (0.1, 0.0, 0.99),
    "to the north": (0.1, 0.99, 0),
}
CORPUS = ("north", "north-east", "east", "up")


class FakeTransport:
    """A server that takes vectors from `VECTORS`. Its index contains the texts `indexed`."""

    def __init__(self, indexed=CORPUS):
        self._indexed = indexed
        self.top_ks = []

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
        self.top_ks.append(parameters["top_k"])
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
    qrels = "q1\tnorth\t1\nq2\tup\t1\nq3\tnorth-east\t1\nq3\teast\t1\n"
    (tmp_path / "qrels" / "test.tsv").write_text(qrels)
    return tmp_path


@pytest.fixture
def dataset(folder):
    return load_dataset(folder, "test")


def run(dataset, transport=None, **options):
    with Client(transport=transport or FakeTransport()) as client:
        return evaluate(client, dataset, **options)


def test_ranks_are_those_of_exact_search(dataset):
    evaluation = run(dataset)
    assert (evaluation.corpus, evaluation.server, evaluation.split) == (4, "triton 0", "test")
    assert evaluation.row("find").metrics["mrr"] == 1
    assert evaluation.row("find").queries == 2
    assert evaluation.row("find", "es").queries == 1
    # "north" itself is excluded, so "north-east" is nearest. "east" and "up" have equal scores, and
    # then the greater id comes first.
    other = evaluation.row("other").metrics
    assert other["recall@1"] == 0.5
    assert other["recall@5"] == 1
    assert other["mrr"] == 1


def test_cut_vectors_give_other_ranks(dataset):
    evaluation = run(dataset, dimensions=[3, 2])
    assert evaluation.row("find", "es", 3).metrics["recall@1"] == 1
    assert evaluation.row("find", "es", 2).metrics["recall@1"] == 0


def test_a_length_that_the_server_does_not_serve_is_refused(dataset):
    with pytest.raises(InvalidInputError, match="dimensions: 4; this profile gives 2 to 3"):
        run(dataset, dimensions=[4])


def test_search_takes_the_ranks_of_the_index(dataset):
    transport = FakeTransport()
    evaluation = run(dataset, transport, through="search")
    assert [row.dimensions for row in evaluation.rows] == [0] * len(evaluation.rows)
    assert evaluation.row("find").metrics["mrr"] == 1
    assert evaluation.row("other").metrics["recall@1"] == 0.5
    # One query excludes an item, so one more hit is requested for it.
    assert sorted(transport.top_ks) == [100, 100, 101]


def test_an_index_of_other_items_is_refused(dataset, monkeypatch):
    monkeypatch.setitem(VECTORS, "west", (-1, 0, 0))
    with pytest.raises(InvalidInputError, match="index holds 'west', which is not in the dataset"):
        run(dataset, FakeTransport((*CORPUS, "west")), through="search")


def test_only_candidates_count(folder):
    (folder / "candidates").mkdir()
    (folder / "candidates" / "test.txt").write_text("north\nup\nnorth-east\neast\n")
    lines = (folder / "corpus.jsonl").read_text()
    more = json.dumps({"_id": "to the north", "text": "to the north"})
    (folder / "corpus.jsonl").write_text(f"{lines}\n{more}")
    dataset = load_dataset(folder, "test")
    transport = FakeTransport((*CORPUS, "to the north"))
    assert run(dataset, transport, through="search").row("find", "en").metrics["mrr"] == 1
    assert run(dataset).row("find", "en").metrics["mrr"] == 1
    # Without the candidates, the query finds itself first.
    (folder / "candidates" / "test.txt").unlink()
    assert run(load_dataset(folder)).row("find", "en").metrics["mrr"] == 1 / 2


def test_items_beyond_the_largest_rank_are_not_found(dataset, monkeypatch):
    monkeypatch.setattr("lensemble_evaluation.ranking.MAX_RANK", 1)
    evaluation = run(dataset, through="search")
    assert evaluation.row("other").metrics["recall@5"] == 0.5


def test_baseline_of_another_split_is_refused(dataset):
    with pytest.raises(InvalidInputError, match=r"measured on '.*', split 'test'; this is 'other'"):
        report.check_baseline(run(dataset), "other", "test")


def test_search_is_compared_with_the_longest_vectors(dataset):
    before = run(dataset, dimensions=[2, 3])
    table = report.format_table(run(dataset, through="search"), before)
    (line,) = [line for line in table.splitlines() if line.split()[:2] == ["find", "es"]]
    assert line.split()[2:6] == ["-", "1", "1.000", "(+0.000)"]  # at 2 dimensions the recall was 0


def test_a_query_that_cannot_be_embedded_is_named(folder):
    lines = (folder / "queries.jsonl").read_text().replace("to the north", "nowhere")
    (folder / "queries.jsonl").write_text(lines)
    with pytest.raises(InvalidInputError, match="text: 'q1': no such direction"):
        run(load_dataset(folder, "test"))


def test_table_shows_what_changed_since_the_baseline(dataset, tmp_path):
    save_result(run(dataset, dimensions=[2]), tmp_path / "before.json")
    before = load_evaluation(tmp_path / "before.json")
    lines = report.format_table(run(dataset, dimensions=[2, 3]), before).splitlines()
    assert "4 items searched through embed" in lines[0]
    (cut,) = [line for line in lines if line.split()[:3] == ["find", "es", "2"]]
    assert cut.split()[4:6] == ["0.000", "(+0.000)"]
    (full,) = [line for line in lines if line.split()[:3] == ["find", "es", "3"]]
    assert full.split()[4] == "1.000"  # the baseline has no such row, so no difference is shown
    assert "(" not in full


@pytest.mark.parametrize(
    "text",
    ["[]", "no", '{"rows": [{}]}', '{"rows": [{"task": "t", "metrics": null}]}', "[" * 100_000],
)
def test_a_file_that_is_no_evaluation_is_refused_as_baseline(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InvalidInputError, match="not an evaluation"):
        load_evaluation(tmp_path / "x.json")


def test_plots_are_drawn_for_several_lengths_and_for_languages(dataset, tmp_path):
    both = plot_evaluation(run(dataset, dimensions=[2, 3]), tmp_path / "plots")
    assert [path.name for path in both] == ["test-by-dimension.png", "test-by-language.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in both)
    (path,) = plot_evaluation(run(dataset), tmp_path / "plots")
    assert path.name == "test-by-language.png"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dimensions", "many"], "dimensions: 'many'; expected whole numbers"),
        (["--dimensions", "2", "--through", "search"], "an index has one length"),
        (["--dimensions", "0"], "dimensions: '0'; expected whole numbers above 0"),
        (["--split", "dev"], "split: 'dev' is not one of test"),
        (["--plots", "{dataset}/corpus.jsonl"], "output: cannot write the results"),
        (["--url", "grpc://127.0.0.1:9", "--concurrency", "0"], "concurrency: 0; expected 1"),
        (["--url", "grpc://127.0.0.1:9", "--timeout", "2"], "failed to connect"),
    ],
)
def test_the_command_refuses_invalid_options(folder, capsys, options, message):
    options = [option.format(dataset=folder) for option in options]
    assert main(["eval", str(folder), *options]) == 1
    assert message in capsys.readouterr().err
