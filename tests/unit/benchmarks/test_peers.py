"""The peers' comparison: its own arithmetic and what it says of peers that cannot be run."""

import asyncio
import base64
import json

import numpy as np
import pytest

from benchmarks.peers import faiss_inprocess, infinity, naive, vllm_cpu
from benchmarks.peers.load import LEAST_PER_CALLER, Turn, body, chat, load
from benchmarks.peers.peer import Peer, serving
from benchmarks.peers.report import SERVED, SERVED_FP32, SERVED_ONNX, Measured, least_cosine
from benchmarks.peers.run import contenders
from lensemble_client import Item

DTYPES = {SERVED: "bf16", SERVED_FP32: "fp32", "naive": "fp32", "naive_bf16": "bf16"}
PNG, JPEG = b"\x89PNG....", b"\xff\xd8...."


def turns(*rates: float) -> list[Turn]:
    return [Turn(rate, 1.0, 2.0, 0.1, 100) for rate in rates]


def measured() -> Measured:
    loaded = {
        SERVED: turns(40, 60, 50),
        SERVED_FP32: turns(20, 30, 20),
        "naive": turns(10, 10, 20),
        "naive_bf16": turns(20, 5, 5),
    }
    alone = {name: turns(*(10 for _ in range(3))) for name in loaded} | {"naive": turns(20, 20, 20)}
    return Measured(loaded, alone, DTYPES, dict.fromkeys(DTYPES, 1.0))


def test_ratios_are_medians_of_the_rounds_own_ratios_with_their_spread():
    found = measured().ratios()
    assert found["served_over_naive"] == 4
    assert found["served_over_naive_spread"] == [2.5, 6]
    assert found["served_fp32_over_naive"] == 2
    assert found["served_over_naive_bf16"] == 10


def test_only_like_precision_is_compared_with_fp32():
    assert "served_fp32_over_naive_bf16" not in measured().ratios()


def test_onnx_runtime_is_compared_with_all_and_is_no_peer():
    loaded = {**measured().loaded, SERVED_ONNX: turns(40, 40, 60)}
    found = Measured(loaded, loaded, {**DTYPES, SERVED_ONNX: "fp32"}, {}).ratios()
    assert found["served_onnx_over_naive"] == 4
    assert found["served_onnx_over_naive_bf16_spread"] == [2, 12]
    assert found["served_over_best_peer"] == 2.5


def test_best_peer_is_the_fastest_of_each_round():
    found = measured().ratios()
    assert found["served_over_best_peer_spread"] == [2, 6]
    assert found["served_over_best_peer"] == 2.5


def test_a_peer_that_is_faster_for_one_caller_shows():
    found = measured().ratios()
    assert found["served_over_naive_alone"] == 0.5
    assert found["served_over_naive_alone_spread"] == [0.5, 0.5]


def test_where_fp32_is_the_default_there_is_one_lensemble():
    only = {SERVED: turns(10), "naive": turns(5)}
    found = Measured(only, only, {SERVED: "fp32", "naive": "fp32"}, {}).ratios()
    assert not [name for name in found if name.startswith(SERVED_FP32)]


def test_the_table_has_a_line_per_server_as_wide_as_its_head():
    head, *lines = measured().table().splitlines()
    assert [line.split()[0] for line in lines] == list(DTYPES)
    assert {len(line) for line in lines} == {len(head)}
    assert json.dumps(measured().content())


def test_cosine_is_of_vectors_of_any_length():
    vectors = np.eye(3, dtype=np.float32)
    assert least_cosine(vectors * 0.9, vectors) == pytest.approx(1)
    assert least_cosine(vectors[[0, 1, 0]], vectors) == 0


def test_reasons_say_which_version_was_tried():
    peers, reasons = contenders(("fp32",), None)
    assert [peer.name for peer in peers] == ["naive", "sentence_transformers"]
    assert "0.0.78" in reasons["infinity"] and reasons["infinity"] == infinity.available()
    assert "0.33.0" in reasons["vllm"] and "--vllm" in reasons["vllm"]


def test_vllm_has_to_be_a_program(tmp_path):
    reason = vllm_cpu.available(tmp_path / "vllm")
    assert reason is not None and "is not a file" in reason
    (tmp_path / "vllm").touch()
    peers, reasons = contenders(("fp32", "bf16"), tmp_path / "vllm")
    assert "vllm" not in reasons
    assert [peer.name for peer in peers][-2:] == ["vllm", "vllm_bf16"]


def test_a_peer_that_ends_at_once_says_what_its_log_says(tmp_path):
    command = (naive.peer().command[0], "-c", "raise SystemExit('no such model')")
    with pytest.raises(RuntimeError, match=r"(?s)broken did not start.*no such model"):
        with serving(Peer("broken", "fp32", "json", command), tmp_path):
            pass


def test_pictures_travel_as_base64():
    sent = body(Item("red", (JPEG,)))
    assert sent["text"] == "red" and base64.b64decode(str(sent["image"])) == JPEG
    assert body(Item("red"))["image"] is None


@pytest.mark.parametrize(("picture", "kind"), [(PNG, "png"), (JPEG, "jpeg")])
def test_chat_has_the_picture_before_the_text(picture, kind):
    content = chat(Item("red", (picture,)))["messages"][1]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    assert content[0]["image_url"]["url"].startswith(f"data:image/{kind};base64,")


def test_callers_send_items_in_order_and_each_has_enough_turns():
    sent = []

    async def ask(item: Item) -> np.ndarray:
        sent.append(item.text)
        await asyncio.sleep(0)
        return np.zeros(1, np.float32)

    items = [Item(str(n)) for n in range(5)]
    found = asyncio.run(load(ask, items, 2, 0))
    assert sent == [str(n % 5) for n in range(found.asked)]
    assert found.asked >= 2 + 2 * LEAST_PER_CALLER
    assert 0 < found.p50_ms <= found.p99_ms


def test_random_vectors_have_unit_length():
    vectors = faiss_inprocess.unit(np.random.default_rng(0), 8, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
