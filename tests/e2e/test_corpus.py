"""The commands `lensemble corpus embed`, `index` and `query`, with a real server."""

import json

import numpy as np
import pytest

from lensemble.operations.tritonserver import TritonServer
from lensemble.profile import Profile
from lensemble.settings import Settings
from lensemble.stages.search import SearchStage
from lensemble_cli.main import main
from lensemble_client import Client
from tests.pictures import encode, textured

pytestmark = pytest.mark.e2e
NAMES = ["a", "b", "broken", "c", "gone", "d"]
DAMAGES = ["dent", "scratch", "dent", "crack", "dent", "dent"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "crops").mkdir()
    for n, name in enumerate(NAMES):
        if name != "gone":
            (folder / f"crops/{name}.png").write_bytes(encode(textured(64 + 8 * n, 64, n)))
    (folder / "crops/broken.png").write_bytes(b"no picture")
    rows = [
        {"crop_path": f"crops/{name}.png", "damage_type": damage, "year": 2015 + n}
        for n, (name, damage) in enumerate(zip(NAMES, DAMAGES, strict=True))
    ]
    (folder / "crops_metadata.json").write_text(json.dumps(rows))
    return folder


def run(capsys, *arguments):
    status = main(["corpus", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_rows_become_embeddings_an_index_and_hits(folder, server, checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("LENSEMBLE_URL", server.grpc_url)
    out, index = folder / "out", folder / "index"
    command = ("embed", folder / "crops_metadata.json", out, "--text", "a {damage_type}")
    status, output, errors = run(capsys, *command)
    assert status == 1, "some rows failed"
    assert output == f"4 of 6 rows embedded, 256 dimensions -> {out} (5 sent to the server)\n"
    assert f"error: row 3, '{folder}/crops/broken.png': image[0]: not a picture" in errors
    assert f"error: row 5, '{folder}/crops/gone.png': image[0]: cannot read" in errors

    vectors = np.load(out / "embeddings.npy", mmap_mode="r")
    rows = json.loads((out / "metadata.json").read_text())
    assert [(row["crop_path"], row["embedding_index"], row["year"]) for row in rows] == [
        ("crops/a.png", 0, 2015),
        ("crops/b.png", 1, 2016),
        ("crops/c.png", 2, 2018),
        ("crops/d.png", 3, 2020),
    ]
    with Client(server.http_url) as client:
        for row, vector in zip(rows, vectors, strict=True):
            expected = client.embed(f"a {row['damage_type']}", folder / row["crop_path"])
            np.testing.assert_allclose(expected, vector, atol=1e-5)

    status, output, _ = run(capsys, *command)
    assert (status, output.split(";")[0]) == (1, f"{out} is up to date: nothing has changed")
    assert "(0 sent to the server)" in output

    assert run(capsys, "index", out, index) == (0, f"4 items -> {index}\n", "")
    query = ("query", index, "a crack", "--image", folder / "crops/c.png", "-k", 2)
    status, output, _ = run(capsys, *query)
    assert status == 0
    first, _second = output.splitlines()
    assert first.split()[:3] == ["1", "1.0000", "crops/c.png"]
    options = ("--filter", '{"damage_type": "dent", "year": {"$gt": 2016}}', "--json")
    _, output, _ = run(capsys, *query, *options)
    (hit,) = map(json.loads, output.splitlines())
    assert (hit["id"], hit["document"]["embedding_index"]) == ("crops/d.png", 3)

    # The search stage of a server with the same checkpoint loads the index and finds the same item.
    stage = SearchStage(Settings(checkpoint=checkpoint, index=index), "cpu")
    (hits,) = stage.run(stage.read({"embedding": np.array(vectors[1:2])}, {"top_k": 1}))
    assert (hits[0].id, round(hits[0].score, 4)) == ("crops/b.png", 1.0)


def test_a_live_index_follows_a_table(folder, checkpoint, tmp_path, capsys):
    """From a table to an index without a server, then a server, then changes of the table."""
    rows = [
        {"crop_path": f"crops/{name}.png", "damage_type": "dent", "year": 2015} for name in "abcd"
    ]
    table = folder / "live.json"
    table.write_text(json.dumps(rows[:3]))
    options = ("--text", "a {damage_type}")
    settings = Settings(checkpoint=checkpoint, index=tmp_path / "index", dtype="fp32", writes="on")
    with TritonServer(settings) as server, Client(server.grpc_url) as client:
        url = ("--url", server.grpc_url)
        assert run(capsys, "sync", table, *options, *url)[0] == 0
        assert client.count() == 3
        client.ingest("live", "a red car", document={"sold": True})
        rows[0]["year"], rows[1]["damage_type"] = 2020, "scratch"
        table.write_text(json.dumps([*rows[:2], rows[3]]))
        before = {name: client.get(f"crops/{name}.png").embedding for name in "ab"}
        status, output, _ = run(capsys, "sync", table, *options, *url, "--dry-run")
        assert (status, client.count()) == (0, 4)
        assert output.splitlines()[-1] == (
            "nothing was written; it would be: 1 added, 1 embedded again, 1 document changed, "
            "0 unchanged, 1 removed; 1 other items in the index"
        )
        assert run(capsys, "sync", table, *options, *url)[0] == 0
        documents = {item.id: item.document for item in client.list_items()}
        assert documents == {row["crop_path"]: row for row in (*rows[:2], rows[3])} | {
            "live": {"sold": True}
        }
        np.testing.assert_array_equal(client.get("crops/a.png").embedding, before["a"])
        expected = client.embed("a scratch", folder / "crops/b.png")
        np.testing.assert_allclose(client.get("crops/b.png").embedding, expected, atol=1e-5)
        _, output, _ = run(capsys, "sync", table, *options, *url)
        assert output.startswith("0 added, 0 embedded again, 0 document changed, 3 unchanged")


def test_shorter_vectors_work_and_another_profile_is_refused(folder, server, checkpoints, capsys):
    out, index = folder / "short", folder / "short_index"
    path = folder / "rows.csv"
    path.write_text("id,make\n1,seat\n2,opel\n")
    url = ("--url", server.grpc_url)
    command = ("embed", path, out, "--text", "{make}", "--dimensions", "64", *url)
    assert run(capsys, *command)[0] == 0
    assert run(capsys, "index", out, index, "--kind", "exact", "--fields", "make")[0] == 0
    status, output, _ = run(capsys, "query", index, "opel", "-k", 1, *url)
    assert (status, output.split()[:3]) == (0, ["1", "1.0000", "2"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["profile"] == Profile.load(checkpoints["qwen3-vl-embedding"]).hash
    other = Profile.load(checkpoints["qwen3-vl-mean"]).hash
    (out / "manifest.json").write_text(json.dumps({**manifest, "profile": other}))
    assert run(capsys, "index", out, index, "--replace")[0] == 0
    status, _, errors = run(capsys, "query", index, "opel", *url)
    assert status == 1
    assert f"built under profile 'unnamed' {other}" in errors
    status, _, errors = run(capsys, "embed", path, out, "--text", "{make}", *url)
    assert (status, "error: dimensions: " in errors) == (1, True)
    command = ("embed", path, folder / "o", "--text", "{make}", "--dimensions", "9", *url)
    status, _, errors = run(capsys, *command)
    assert (status, "error: dimensions: 9; profile" in errors) == (1, True)
