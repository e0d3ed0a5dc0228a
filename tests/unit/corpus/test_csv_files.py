"""CSV files of all sorts: encodings, delimiters, long fields, and columns of numbers."""

import pytest

from lensemble_client import InvalidInputError
from lensemble_corpus.csv_files import CsvFormat
from lensemble_corpus.source import EmbeddableRow, Source

CSV = "id;text;year\n1;café, grande;2019\n2;señal;2020\n"


def rows_of(path, csv_format=None):
    source = Source(path, text="{text}", id_field="id", csv_format=csv_format)
    rows = list(source)
    assert source.total == len(rows)
    return [
        row.entry.document if isinstance(row, EmbeddableRow) else str(row.error) for row in rows
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.csv"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_of_the_first_line(path, delimiter):
    path.write_text(f'id{delimiter}text\n1{delimiter}"a, b; c|d\te"\n')
    assert rows_of(path) == [{"id": "1", "text": "a, b; c|d\te"}]


def test_the_first_line_of_excel_names_the_delimiter(path):
    path.write_text("sep=;\nid;text\n1;x\n2\n")
    assert rows_of(path) == [{"id": "1", "text": "x"}, "1 values; the header has 2"]
    assert [row.where for row in Source(path, text="{text}", id_field="id")] == ["line 3", "line 4"]


def test_a_delimiter_can_be_given(path):
    path.write_text("id,x;text\n1,y;a\n")
    (row,) = Source(path, text="{text}", csv_format=CsvFormat(delimiter=";"), id_field="text")
    assert row.entry.document == {"id,x": "1,y", "text": "a"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_not_part_of_the_first_name(path, encoding):
    path.write_text(CSV, encoding)
    expected = [
        {"id": "1", "text": "café, grande", "year": "2019"},
        {"id": "2", "text": "señal", "year": "2020"},
    ]
    assert rows_of(path) == expected
    if encoding != "utf-8":
        assert rows_of(path, CsvFormat(encoding="cp1252")) == expected, "the mark comes first"


def test_another_encoding_is_asked_for_and_not_guessed(path):
    path.write_text(CSV, "latin-1")
    with pytest.raises(InvalidInputError, match=r"not utf-8 near .*café.*--encoding cp1252"):
        rows_of(path)
    assert [row["text"] for row in rows_of(path, CsvFormat(encoding="latin-1"))] == [
        "café, grande",
        "señal",
    ]


def test_a_field_may_be_longer_than_pythons_limit(path):
    long = "word " * 60_000
    path.write_text(f"id,text\n1,{long}\n2,short\n")
    assert [len(row["text"]) for row in rows_of(path)] == [300_000, 5]


def test_columns_have_the_types_that_are_given(path):
    path.write_text(
        "id,text,year,price,sold,tags\n"
        '007,a,2019,3.5,True,"[""red""]"\n'
        "8,b,,,,\n"
        "9,c,2019.0,1,true,1\n"
        "10,d,7,nan,true,1\n"
        "11,e,7,1,yes,1\n"
        "12,f,7,1,true,[\n"
    )
    types = {"year": "int", "price": "float", "sold": "bool", "tags": "json", "text": "text"}
    rows = rows_of(path, CsvFormat(types=types))
    assert rows[0] == {
        "id": "007",
        "text": "a",
        "year": 2019,
        "price": 3.5,
        "sold": True,
        "tags": ["red"],
    }
    assert rows[1] == {
        "id": "8",
        "text": "b",
        "year": None,
        "price": None,
        "sold": None,
        "tags": None,
    }
    assert rows[2:] == [
        "'year' is '2019.0'; expected a whole number such as 2019",
        "'price' is 'nan'; expected a number such as 3.5, with a point",
        "'sold' is 'yes'; expected true or false",
        "'tags' is '['; expected JSON",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"types": {"yaer": "int"}}, r"^types: 'yaer'; the file has 'id', 'text', 'year'"),
        ({"types": {"year": "date"}}, r"^types: 'year' has 'date'; expected one of text, int"),
        ({"encoding": "latin-7x"}, r"^encoding: 'latin-7x'; expected a name such as cp1252"),
        ({"delimiter": ";;"}, r"^delimiter: ';;'; expected one character"),
    ],
)
def test_options_that_do_not_fit_are_refused(path, options, message):
    path.write_text(CSV)
    with pytest.raises(InvalidInputError, match=message):
        rows_of(path, CsvFormat(**options))


def test_options_of_csv_files_are_refused_for_others(tmp_path):
    (tmp_path / "rows.json").write_text('[{"id": 1, "text": "a"}]')
    with pytest.raises(InvalidInputError, match="is no CSV file"):
        rows_of(tmp_path / "rows.json", CsvFormat(encoding="latin-1"))
    with pytest.raises(InvalidInputError, match="is a folder, which determines"):
        Source(tmp_path, csv_format=CsvFormat(encoding="latin-1"))
