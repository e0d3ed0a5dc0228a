"""Pictures inside the rows of a table, as Parquet files of picture datasets have them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensemble_client import InvalidInputError
from lensemble_corpus import embedding_run
from lensemble_corpus.source import RefusedRow, Source
from tests.embedded_corpus import EmbeddedCorpus
from tests.pictures import encode, textured

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="module")
def pictures():
    return [encode(textured(40, 30, n)) for n in range(3)]


def write(path, image_type, images, **columns):
    schema = pa.schema([("image", image_type)])
    table = pa.Table.from_pydict({"image": images}, schema)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, path)
    return path


def test_an_object_has_the_bytes_or_the_path_of_a_picture(tmp_path, pictures):
    (tmp_path / "c.png").write_bytes(pictures[2])
    images = [
        {"bytes": pictures[0], "path": "a.png"},
        {"bytes": None, "path": "c.png"},
        {"bytes": None, "path": None},
    ]
    first, second, third = Source(write(tmp_path / "x.parquet", IMAGE, images, label=[1, 2, 3]))
    assert (first.entry.id, first.entry.item().images) == ("a.png", (pictures[0],))
    assert first.entry.document == {"image": "a.png", "label": 1}
    assert (second.entry.id, second.entry.item().images) == ("c.png", (pictures[2],))
    assert isinstance(third, RefusedRow)


def test_bytes_are_a_picture_and_no_part_of_the_document(tmp_path, pictures):
    path = write(tmp_path / "x.parquet", pa.binary(), pictures, id=["a", "b", "c"])
    rows = list(Source(path))
    assert [row.entry.item().images for row in rows] == [(picture,) for picture in pictures]
    assert [json.loads(row.json_text) for row in rows] == [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    digests = [row.digest for row in rows]
    assert len(set(digests)) == 3
    write(path, pa.binary(), [pictures[0], pictures[2], pictures[2]], id=["a", "b", "c"])
    changed = [row.digest for row in Source(path)]
    assert (changed[0], changed[1], changed[2]) == (digests[0], digests[2], digests[2])


def test_several_pictures_of_one_row(tmp_path, pictures):
    images = [[{"bytes": pictures[0], "path": "a"}, {"bytes": pictures[1], "path": None}]]
    path = write(tmp_path / "x.parquet", pa.list_(IMAGE), images, n=[1])
    (row,) = Source(path, id_field="n")
    assert row.entry.item().images == tuple(pictures[:2])
    assert row.entry.document == {"image": ["a"], "n": 1}


def test_rows_without_a_name_are_numbered_if_the_caller_says_so(tmp_path, pictures):
    images = [{"bytes": picture, "path": None} for picture in pictures]
    path = write(tmp_path / "x.parquet", IMAGE, images, label=[7, 8, 9])
    with pytest.raises(InvalidInputError, match=r"^id_field: .*take the numbers .*--id-field ''"):
        Source(path)
    source = Source(path, id_field="")
    assert [(row.entry.id, row.entry.document) for row in source] == [
        ("1", {"label": 7, "_id": "1"}),
        ("2", {"label": 8, "_id": "2"}),
        ("3", {"label": 9, "_id": "3"}),
    ]
    assert source.id_field == "_id"


def test_no_message_has_the_content_of_bytes(tmp_path, pictures):
    path = write(tmp_path / "x.parquet", pa.binary(), pictures[:1], text=["a"])
    for options in (
        {"id_field": "image", "text": "{text}"},
        {"id_field": "text", "image_field": "", "text": "{text} {image}"},
    ):
        with pytest.raises(InvalidInputError) as refused:
            Source(path, **options)
        assert "PNG" not in str(refused.value) and len(str(refused.value)) < 300
    rows = [{"image": {"bytes": [1], "path": "p"}, "id": 1}, {"image": {"x": 1}, "id": 2}]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    errors = [str(row.error) for row in Source(tmp_path / "x.json", id_field="id")]
    assert errors == [
        "'image' is a list of 1; expected a path, an encoded picture, or a list of one of both",
        "'image' is an object with 'x'; expected a path, an encoded picture, or a list of one of "
        "both",
    ]


def test_paths_and_bytes_in_one_list_are_refused(tmp_path, pictures):
    images = [[{"bytes": pictures[0], "path": "a"}, {"bytes": None, "path": "b"}]]
    (row,) = Source(write(tmp_path / "x.parquet", pa.list_(IMAGE), images, n=[1]), id_field="n")
    assert str(row.error) == (
        "'image' is paths and encoded pictures in one list; expected only one of both"
    )


def test_other_bytes_become_hexadecimal_digits_or_a_number(tmp_path):
    table = pa.table({"id": ["a"], "hash": [b"\x00\xff"], "long": [b"x" * 65], "text": ["t"]})
    pq.write_table(table, tmp_path / "x.parquet")
    (row,) = Source(tmp_path / "x.parquet", id_field="id", text="{text}")
    assert json.loads(row.json_text) == {
        "id": "a",
        "hash": "00ff",
        "long": "65 bytes",
        "text": "t",
    }


def test_encoded_pictures_are_embedded_in_small_blocks(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(embedding_run, "_BLOCK_BYTES", len(pictures[0]) + 1)
    corpus = EmbeddedCorpus(tmp_path)
    corpus.path = write(tmp_path / "x.parquet", pa.binary(), pictures, id=["a", "b", "c"])
    assert corpus.run(None).count == 3
    assert sorted(corpus.sent) == sorted(pictures)
    assert corpus.run(None).sent == 0
    sizes = [len(block) for block in embedding_run.blocks_of(Source(corpus.path))]
    assert sizes == [2, 1]
