"""Items of a folder: pictures, their JSON files, `corpus.jsonl`."""

import json

import pytest

from lensemble_client import InvalidInputError
from lensemble_corpus.entries import find_entries


def test_pictures_have_their_path_as_id_and_a_json_file_as_document(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.PNG", "sub/b.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path / "sub/b.json").write_text(json.dumps({"plate": "ñ-1"}))
    assert [(entry.id, entry.images, entry.document) for entry in find_entries(tmp_path)] == [
        ("a.PNG", (tmp_path / "a.PNG",), {"file": "a.PNG"}),
        ("sub/b.jpg", (tmp_path / "sub/b.jpg",), {"plate": "ñ-1"}),
    ]


def test_a_folder_without_items_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="no pictures under"):
        find_entries(tmp_path)


def test_a_json_file_that_is_no_object_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"content")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(InvalidInputError, match=r"a.json': expected a JSON object"):
        find_entries(tmp_path)
