"""Rows of every kind of file, and the errors of rows and files that are not valid."""

import json
import math
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensemble_client import InvalidInputError
from lensemble_corpus.row_content import document_text
from lensemble_corpus.source import EmbeddableRow, RefusedRow, Source
from lensemble_corpus.text_template import TextTemplate
from tests.pictures import encode, textured

CSV = 'crop_path,damage_type,year\na.png,dent,2019\nsub/b.png,"scratch, deep",2020\n'
ROWS = [
    {"crop_path": "a.png", "damage_type": "dent", "year": 2019},
    {"crop_path": "sub/b.png", "damage_type": "scratch, deep", "year": 2020},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for n, name in enumerate(("a.png", "sub/b.png")):
        (tmp_path / name).write_bytes(encode(textured(40, 30, n)))
    return tmp_path


def parquet_of(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


def write(folder, kind, rows=ROWS):
    path = folder / f"crops.{kind}"
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "jsonl":
        path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    elif kind == "csv":
        path.write_text(CSV, "utf-8-sig")
    else:
        parquet_of(path, rows)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(folder, kind):
    source = Source(write(folder, kind), text="a {damage_type}", instruction="Find it.")
    assert (source.total, source.id_field) == (2, "crop_path")
    first, second = source
    assert [first.where, second.where] == {
        "json": ["row 1", "row 2"],
        "jsonl": ["line 1", "line 3"],
        "csv": ["line 2", "line 3"],
        "parquet": ["row 1", "row 2"],
    }[kind]
    assert (second.entry.id, second.entry.text) == ("sub/b.png", "a scratch, deep")
    assert second.entry.instruction == "Find it."
    assert second.entry.item().images == ((folder / "sub/b.png").read_bytes(),)
    expected = {**ROWS[1], "year": "2020" if kind == "csv" else 2020}
    assert second.entry.document == expected
    assert [row.digest for row in source] == [first.digest, second.digest], (
        "a source can be read repeatedly"
    )


def test_a_folder_gives_the_items_of_its_corpus_or_its_pictures(folder):
    (folder / "a.json").write_text('{"make": "seat"}')
    source = Source(folder)
    assert [(row.entry.id, row.entry.document) for row in source] == [
        ("a.png", {"_id": "a.png", "make": "seat"}),
        ("sub/b.png", {"_id": "sub/b.png", "file": "sub/b.png"}),
    ]
    (folder / "corpus.jsonl").write_text(
        '{"_id": "1", "text": "one", "image": "a.png"}\n{"_id": "2", "text": "two"}\n'
    )
    assert [(row.entry.id, row.entry.text) for row in Source(folder)] == [
        ("1", "one"),
        ("2", "two"),
    ]
    assert [row.entry.text for row in Source(folder, text="<{_id}>")] == ["<1>", "<2>"]
    with pytest.raises(
        InvalidInputError, match="is a folder, which determines pictures and ids itself"
    ):
        Source(folder, id_field="x")


def test_a_bad_row_is_refused_and_the_others_follow(folder):
    path = folder / "crops.jsonl"
    path.write_text(
        '{"crop_path": "a.png"}\n{broken\n[1]\n{"crop_path": 7}\n{"x": 1}\n'
        '{"crop_path": "gone.png"}\n{"crop_path": ""}\n{"crop_path": "a\\ud800.png"}\n'
        '{"crop_path": ["a.png", "sub/b.png"], "id": 5}\n'
    )
    rows = list(Source(path, id_field="crop_path"))
    errors = {row.where: str(row.error) for row in rows if isinstance(row, RefusedRow)}
    assert list(errors) == [f"line {n}" for n in (2, 3, 4, 5, 7, 8, 9)]
    assert "not JSON" in errors["line 2"]
    assert errors["line 3"] == "a JSON list; expected an object"
    assert errors["line 4"].startswith("'crop_path' is 7; expected a path, an")
    assert errors["line 5"] == "crop_path: None; expected a text or a number"
    assert errors["line 8"] == "a text in the row is not valid Unicode"
    assert isinstance(rows[5], EmbeddableRow), "a missing picture is found when it is embedded"
    with pytest.raises(InvalidInputError, match="cannot read"):
        rows[5].entry.item()
    path.write_text('{"id": 5, "crop_path": ["a.png", "sub/b.png"]}\n')
    (row,) = Source(path, id_field="id")
    assert (row.entry.id, len(row.entry.item().images)) == ("5", 2)


def test_broken_rows_of_csv_are_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('id,text\n1,one\n\n2\n3,"three\nlines"\n4,four,more\n')
    source = Source(path, text="{text}")
    assert source.total == 4
    rows = list(source)
    assert [row.where for row in rows] == ["line 2", "line 4", "line 6", "line 7"]
    assert rows[2].entry.text == "three\nlines"
    assert [str(row.error) for row in (rows[1], rows[3])] == [
        "1 values; the header has 2",
        "3 values; the header has 2",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", r"the first line is \[\]"),
        ("x.csv", b"id,id\n1,2\n", "each once"),
        ("x.csv", b'id,text\n1,"never closed\n', "line 2: unexpected end of data"),
        ("x.csv", b"id,text\n1,caf\xe9\n", "cannot read .*x.csv.*utf-8"),
        ("x.csv", b"id,text\n", "no row to embed"),
        ("x.jsonl", b'{"id": 1}\n{"id": "caf\xe9"}\n', "cannot read .*utf-8"),
        ("x.jsonl", b"", "no row to embed"),
        ("x.json", b'{"id": 1}', "a JSON dict; expected a list of objects"),
        ("x.json", b"[1, 2]", "no row to embed"),
        ("x.json", b"[" * 100_000, "cannot read"),
        ("x.json", b"[{]", "cannot read .*: Expecting"),
        ("x.parquet", b"PAR1 not", "cannot read .*x.parquet"),
        ("x.txt", b"a", "expected .json, .jsonl, .csv, .parquet, or a folder"),
        ("gone.json", None, "cannot read .*gone.json"),
        ("gone.csv", None, "cannot read .*gone.csv"),
    ],
)
def test_a_fault_of_the_whole_file_is_an_error_at_once(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=message):
        Source(tmp_path / name, text="{text}", id_field="id")


def test_fields_are_named_or_have_usual_names(folder):
    path = folder / "rows.json"

    def source(row, **options):
        path.write_text(json.dumps([row]))
        return Source(path, **options)

    (row,) = source({"n": 1, "path": "a.png", "image": "sub/b.png"})
    assert row.entry.id == "sub/b.png", "image comes before path"
    (row,) = source({"n": 1, "path": "a.png", "image": "x"}, image_field="path", id_field="n")
    assert (row.entry.id, row.entry.images) == ("1", (folder / "a.png",))
    (row,) = source({"_id": "i", "path": "a.png"}, image_field="", text="{path}")
    assert (row.entry.id, row.entry.images, row.entry.text) == ("i", (), "a.png")
    with pytest.raises(
        InvalidInputError, match=r"none of crop_path.*has 'picture', 'n';.*--image-"
    ):
        source({"picture": "a.png", "n": 1})
    with pytest.raises(InvalidInputError, match=r"'pic'; the first row has 'path'"):
        source({"path": "a.png"}, image_field="pic")
    with pytest.raises(InvalidInputError, match=r"'nr'; name a field .*has 'path'"):
        source({"path": "a.png"}, id_field="nr")
    with pytest.raises(
        InvalidInputError, match=r"the first row has no picture.*--id-field.*has 't'"
    ):
        source({"t": "x"}, text="{t}")


def test_an_earlier_embedding_index_is_removed(folder):
    (row,) = Source(write(folder, "json", [{**ROWS[0], "embedding_index": 7}]))
    assert row.json_text == json.dumps(ROWS[0])


def test_a_template_holds_only_names_of_fields():
    assert TextTemplate("{a}: {b c} {{}}{a}").fill_in({"a": None, "b c": 3}) == ": 3 {}"
    assert TextTemplate("{a}").fill_in({"a": "{b}"}) == "{b}"
    for wrong in ("{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a", "{a:{b}}", "}"):
        with pytest.raises(InvalidInputError, match=r"^text: "):
            TextTemplate(wrong)
    with pytest.raises(InvalidInputError, match="the template names 'x'; the row has 'a', 'b'"):
        TextTemplate("{a} {x}").fill_in({"a": 1, "b": 2})


def test_a_template_that_the_first_row_does_not_fit_is_an_error_at_once(folder):
    with pytest.raises(InvalidInputError, match="names 'damage'; the row has 'crop_path'"):
        Source(write(folder, "json"), text="{damage}")
    first, second = Source(write(folder, "json", [ROWS[0], {"crop_path": "a.png"}]), text="{year}")
    assert isinstance(first, EmbeddableRow)
    assert "names 'year'" in str(second.error)


def test_the_digest_changes_with_what_the_vector_depends_on(folder):
    path = write(folder, "json")

    def digests(**options):
        return [row.digest for row in Source(path, **options)]

    before = digests()
    path.write_text(json.dumps([{**row, "more": 1} for row in ROWS]))
    assert digests() == before, "metadata does not change a vector"
    assert digests(text="{year}") != before
    assert digests(instruction="x") != before
    (folder / "a.png").write_bytes(b"other")
    changed = digests()
    assert (changed[0] == before[0], changed[1] == before[1]) == (False, True)
    (folder / "sub/b.png").unlink()
    gone = digests()
    assert gone[1] != changed[1]
    os.utime(folder / "a.png", ns=(1, 1))
    assert digests()[0] != changed[0]


def test_documents_become_json():
    assert document_text({"a": math.nan, "b": [math.inf, 1.5], "ñ": "é"}) == (
        '{"a": null, "b": [null, 1.5], "ñ": "é"}'
    )
    from datetime import date

    assert document_text({"d": date(2026, 1, 2), "b": b"x"}) == '{"d": "2026-01-02", "b": "78"}'
