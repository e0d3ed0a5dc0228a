"""An index that is built from a corpus or pictures: its vectors, ids and documents."""

import json

import pytest

from lensemble.index.search.live_index import LiveIndex
from lensemble.index.storage.store import Store
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_cli.main import main
from lensemble_client import InvalidInputError, Item
from lensemble_export.index_from_corpus import build_index
from tests.pictures import encode, textured


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.PNG").write_bytes(encode(textured(64, 64, 1)))
    (folder / "sub" / "b.jpg").write_bytes(encode(textured(96, 64, 2), "JPEG"))
    (folder / "sub" / "b.json").write_text('{"plate": "ñ-1"}')
    (folder / "notes.txt").write_text("not a picture")
    return folder


def documents(folder):
    with Store.open(folder) as store:
        rows = store.read_contents().rows.tolist()
        return {
            id_: json.loads(document) for id_, document in store.ids_and_documents(rows).values()
        }


def test_ids_are_paths_and_documents_come_from_json_files(pictures, checkpoint, tmp_path):
    summary = build_index(pictures, tmp_path / "index", Settings(checkpoint=checkpoint))
    assert (summary.count, summary.dimension, summary.failed) == (2, 256, {})
    assert documents(tmp_path / "index") == {
        "a.PNG": {"file": "a.PNG"},
        "sub/b.jpg": {"plate": "ñ-1"},
    }


def test_vectors_are_those_of_the_pipeline(pictures, checkpoint, tmp_path, pipeline):
    settings = Settings(checkpoint=checkpoint, dtype="fp32")
    build_index(pictures, tmp_path / "index", settings, dimensions=64)
    (vector,) = pipeline.embed([Item(images=((pictures / "a.PNG").read_bytes(),))], 64)
    with LiveIndex.open(tmp_path / "index") as index:
        (matches,) = index.search(vector[None], 1)
    assert matches[0].id == "a.PNG"
    assert matches[0].score == pytest.approx(1, abs=1e-6)


def test_a_broken_picture_is_named_and_nothing_is_written(pictures, checkpoint, tmp_path):
    (pictures / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InvalidInputError, match=r"1 of 3 items.*\n  'broken.png': image\[0\]"):
        build_index(pictures, tmp_path / "index", Settings(checkpoint=checkpoint))
    assert not (tmp_path / "index").exists()


def test_a_build_that_failed_is_not_for_nothing(pictures, checkpoint, tmp_path, monkeypatch):
    """The next one embeds only what the first one did not."""
    embedded = []
    embed = Pipeline.embed

    def counting(self, items, dimensions):
        embedded.extend(items)
        return embed(self, items, dimensions)

    monkeypatch.setattr(Pipeline, "embed", counting)
    out, settings = tmp_path / "index", Settings(checkpoint=checkpoint)
    (pictures / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InvalidInputError, match=r"are kept in .*index\.embedded"):
        build_index(pictures, out, settings)
    assert len(embedded) == 3
    embedded.clear()
    (pictures / "sub" / "b.json").write_text('{"plate": "other"}')
    summary = build_index(pictures, out, settings, skip_bad=True)
    assert (summary.count, list(summary.failed)) == (2, ["broken.png"])
    assert [item.images for item in embedded] == [(b"\x89PNG nothing",)]
    assert documents(out)["sub/b.jpg"] == {"plate": "other"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "pictures"]
    # Vectors of another dimension are not taken.
    with pytest.raises(InvalidInputError):
        build_index(pictures, tmp_path / "other", settings, dimensions=64)
    embedded.clear()
    build_index(pictures, tmp_path / "other", settings, skip_bad=True)
    assert len(embedded) == 3


def test_a_broken_picture_can_be_left_out(pictures, checkpoint, tmp_path, capsys):
    (pictures / "broken.png").write_bytes(b"\x89PNG nothing")
    arguments = ["index", "build", str(pictures), str(tmp_path / "index")]
    arguments += ["--checkpoint", str(checkpoint), "--dimensions", "64"]
    assert main(arguments) == 1
    assert main([*arguments, "--skip-bad"]) == 0
    out, err = capsys.readouterr()
    assert "2 items, 64 dimensions" in out
    assert "skipped 'broken.png'" in err


def test_corpus_of_texts_and_pictures_is_indexed_under_its_ids(pictures, checkpoint, tmp_path):
    lines = [
        {"_id": "car/1", "image": "a.PNG", "colour": "red"},
        {"_id": "note", "title": "Left door", "text": "scratched", "instruction": "Find damage."},
    ]
    (pictures / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    build_index(pictures, tmp_path / "index", Settings(checkpoint=checkpoint))
    assert documents(tmp_path / "index") == {
        "car/1": {"image": "a.PNG", "colour": "red"},
        "note": {"title": "Left door", "text": "scratched"},
    }
