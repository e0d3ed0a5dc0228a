"""Datasets and corpora on disk: what is read, and how faults are reported."""

import json

import pytest

from lensemble_client import InvalidInputError
from lensemble_corpus.entries import load_entries
from lensemble_evaluation.dataset import load_dataset, splits
from tests.pictures import encode, textured

CORPUS = [
    {"_id": "1", "title": "A cup", "text": "of coffee", "kind": "drink"},
    {"_id": "2", "image": "images/a.png"},
    {"_id": "3", "text": "tea", "image": ["images/a.png", "images/a.png"]},
]
QUERIES = [
    {"_id": "q", "text": "hot drinks", "task": "text", "language": "en", "exclude": ["3"]},
    {"_id": "unjudged", "text": "never asked"},
]


def write(folder, corpus=CORPUS, queries=QUERIES, qrels="q\t1\t1\n", candidates=None):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "images" / "a.png").write_bytes(encode(textured(32, 32)))
    for name, lines in (("corpus", corpus), ("queries", queries)):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}")
    if candidates is not None:
        (folder / "candidates").mkdir(exist_ok=True)
        (folder / "candidates" / "test.txt").write_text(candidates)
    return folder


def test_entries_become_items(tmp_path):
    first, second, third = load_entries(write(tmp_path))
    assert first.item().text == "A cup of coffee"
    assert first.document == {"title": "A cup", "text": "of coffee", "kind": "drink"}
    assert (second.item().text, len(second.item().images)) == (None, 1)
    assert len(third.item().images) == 2


def test_a_split_is_read(tmp_path):
    dataset = load_dataset(write(tmp_path, qrels="q\t1\t2\nq\t2\t0\n"))
    assert [entry.id for entry in dataset.corpus] == ["1", "2", "3"]
    assert [entry.id for entry in dataset.queries] == ["q"]
    assert dataset.qrels == {"q": {"1": 2}}  # a judgment of 0 means: not relevant
    assert dataset.excluded["q"] == {"3"}
    assert dataset.not_searched == set()


def test_candidates_limit_what_is_searched(tmp_path):
    dataset = load_dataset(write(tmp_path, candidates="1\n3\n"), "test")
    assert [entry.id for entry in dataset.corpus] == ["1", "3"]
    assert dataset.not_searched == {"2"}


def test_one_string_excludes_one_item(tmp_path):
    queries = [{"_id": "q", "text": "t", "exclude": "17"}]
    corpus = [{"_id": id_, "text": id_} for id_ in ("1", "7", "17")]
    dataset = load_dataset(write(tmp_path, corpus=corpus, queries=queries))
    assert dataset.excluded["q"] == {"17"}


def test_byte_order_marks_and_windows_lines_are_read(tmp_path):
    folder = write(tmp_path, candidates="1\n")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "candidates/test.txt"):
        text = (folder / name).read_text().replace("\n", "\r\n")
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_dataset(folder).qrels == {"q": {"1": 1}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"corpus": ["{no json"]}, "corpus.jsonl: line 1: "),
        ({"corpus": ["[" * 100_000]}, "corpus.jsonl: line 1: "),
        ({"corpus": [{"text": "no id"}]}, 'corpus.jsonl: line 1: .*string "_id"'),
        ({"corpus": [CORPUS[0], CORPUS[0]]}, "corpus.jsonl: line 2: _id '1' is not unique"),
        ({"corpus": [{"_id": "1"}]}, '\'1\' has neither "text" nor "image"'),
        ({"corpus": [{"_id": "1", "text": 5}]}, "'text' is 5; expected a string"),
        ({"corpus": [{"_id": "1", "image": 7}]}, "'image' is 7; expected a string or a list"),
        ({"corpus": [{"_id": "1", "image": {"a": 1}}]}, "'image' is {'a': 1}; expected"),
        ({"corpus": [{"_id": "1", "text": "t", "instruction": []}]}, "'instruction' is \\[\\]"),
        ({"corpus": [{"_id": "1", "image": "../x.png"}]}, "'../x.png' is outside the folder"),
        ({"corpus": [{"_id": "1", "image": "/etc/passwd"}]}, "outside the folder"),
        ({"corpus": [{"_id": "1", "image": "images/none.png"}]}, "'1': no picture .*none.png"),
        ({"corpus": []}, "corpus.jsonl' is empty"),
        ({"queries": [{"_id": "q", "text": "t", "exclude": 5}]}, "'q': 'exclude' is 5; expected"),
        ({"qrels": "q\t1\n"}, "qrels/test.tsv: line 2: 'q.t1'; expected query-id, corpus-id and"),
        ({"qrels": "q\t1\t-1\n"}, "a whole number from 0 to 1000"),
        ({"qrels": f"q\t1\t{'9' * 400}\n"}, "a whole number from 0 to 1000"),
        ({"qrels": f"q\t{'1' * 200_000}\t1\n"}, "is not in corpus.jsonl"),
        ({"qrels": "q\t9\t1\n"}, "line 2: item '9' is not in corpus.jsonl"),
        ({"qrels": "x\t1\t1\n"}, "line 2: query 'x' is not in queries.jsonl"),
        ({"qrels": "q\t3\t1\n"}, "'3' is marked as relevant, but the query excludes it"),
        ({"qrels": "q\t1\t1\nq\t1\t0\n"}, "line 3: 'q' and '1' are judged twice"),
        ({"qrels": ""}, "it marks no item as relevant"),
        ({"candidates": "9\n"}, "candidates/test.txt: line 1: '9' is not in corpus.jsonl"),
        ({"candidates": "2\n"}, "'1' is not in corpus.jsonl, or not in this split's candidates"),
        ({"candidates": ""}, "it is empty; remove it"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path, damage, message):
    with pytest.raises(InvalidInputError, match=message):
        load_dataset(write(tmp_path, **damage), "test")


def test_a_missing_picture_is_named(tmp_path):
    folder = write(tmp_path, corpus=[{"_id": "1", "image": "images/none.png"}])
    with pytest.raises(InvalidInputError, match=r"images/none\.png"):
        load_entries(folder)[0].item()


def test_the_error_for_an_unknown_split_names_the_known_ones(tmp_path):
    with pytest.raises(InvalidInputError, match="split: 'dev' is not one of test"):
        load_dataset(write(tmp_path), "dev")


def test_a_split_must_be_named_if_there_are_several_and_none_is_test(tmp_path):
    folder = write(tmp_path)
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "one.tsv")
    assert load_dataset(folder).split == "one"
    (folder / "qrels" / "two.tsv").write_text("")
    with pytest.raises(InvalidInputError, match="choose one of one, two with --split"):
        load_dataset(folder)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"no qrels/\*\.tsv .*docs/evaluation\.md"):
        splits(tmp_path)
    with pytest.raises(InvalidInputError, match=r"no folder .*nowhere"):
        splits(tmp_path / "nowhere")
