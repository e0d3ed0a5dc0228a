"""`lensemble compare` through the real server, on a dataset whose answers are known by hand."""

import json

import pytest

from lensemble_client.cli import main
from tests.fake_chat_server import COLOURS, description, plain

pytestmark = pytest.mark.e2e


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for n, colour in enumerate(COLOURS):
        # Not one size for all: all embedders must see the query's picture as the corpus' one.
        plain(colour, 50 + n, 50).save(tmp_path / "images" / f"{colour}.png")
    corpus = [{"_id": c, "image": f"images/{c}.png"} for c in COLOURS]
    queries = [
        {"_id": "red words", "text": description("red"), "task": "words", "instruction": "find"},
        {"_id": "blue words", "text": description("blue"), "task": "words"},
        *({"_id": c, "image": f"images/{c}.png", "task": "picture"} for c in COLOURS),
    ]
    for name, objects in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, objects)))
    (tmp_path / "qrels").mkdir()
    judged = ["red words\tred\t1", "blue words\tblue\t1", "blue words\twhite\t1"]
    judged += [f"{c}\t{c}\t1" for c in COLOURS]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(judged))
    return tmp_path


def test_three_embedders_side_by_side(everything, chat, folder, tmp_path, capsys):
    chat.reset()
    options = ["--samples", "4", "--concurrency", "4", "--price", "2", "--url", everything.grpc_url]
    out = ["--json", str(tmp_path / "found.json"), "--plots", str(tmp_path / "plots")]
    assert main(["compare", str(folder), *options, *out]) == 0
    printed = capsys.readouterr().out
    said = json.loads((tmp_path / "found.json").read_text())
    assert (said["corpus"], said["queries"], said["price_per_hour"]) == (6, 8, 2)
    found = {one["embedder"]: one for one in said["embedders"]}
    assert list(found) == ["native", "hybrid", "clip"]
    for name, one in found.items():
        assert one["error"] == ""
        rows = {row["task"]: row["metrics"] for row in one["quality"]}
        assert rows["picture"]["recall@1"] == 1, name  # the very same picture
        cost = one["cost"]
        assert 0 < cost["latency_ms"]["p50"] <= cost["latency_ms"]["p95"]
        rate = cost["items_per_s"]
        assert 0 < rate["least"] <= rate["median"] <= rate["most"]
        assert cost["server_s_per_1000"] == pytest.approx(1000 / rate["median"])
        assert cost["price_per_1000"] == pytest.approx(2 * cost["server_s_per_1000"] / 3600)
        assert cost["tokens_per_item"] > 0
        assert one["without_instruction"] == (0 if name == "native" else 1)
        assert f"\n{name}" in printed
    # The query says what the chat server says: first is the one; of two relevant, one is first.
    words = {row["task"]: row["metrics"] for row in found["hybrid"]["quality"]}["words"]
    assert words["recall@1"] == pytest.approx((1 + 0.5) / 2)
    assert words["mrr"] == 1
    assert (tmp_path / "plots" / "test-compare.png").is_file()
    assert main(["eval", str(folder), "--embedder", "hybrid", "--url", everything.grpc_url]) == 1
    assert "instruction: 'red words'" in capsys.readouterr().err  # `eval` leaves nothing out
