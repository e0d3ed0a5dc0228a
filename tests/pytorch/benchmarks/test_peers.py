"""The comparison with peers: its arithmetic, its requests, and peers that cannot be run."""

import asyncio
import base64
import json
import sys

import numpy as np
import pytest

from benchmarks.peers import faiss_inprocess, infinity, vllm_cpu
from benchmarks.peers.comparison import (
    SERVED,
    SERVED_FP32,
    SERVED_ONNX,
    PeerComparison,
    smallest_cosine,
)
from benchmarks.peers.load_generator import (
    MIN_ANSWERS_PER_CALLER,
    Turn,
    chat_request,
    json_request,
    run_callers,
)
from benchmarks.peers.peer import Peer, running_peer
from benchmarks.peers.run_comparison import available_peers
from lensemble_client import Item

DTYPES = {SERVED: "bf16", SERVED_FP32: "fp32", "naive": "fp32", "naive_bf16": "bf16"}
PNG, JPEG = b"\x89PNG....", b"\xff\xd8...."


def turns(*rates: float) -> list[Turn]:
    return [Turn(rate, 1.0, 2.0, 0.1, 100) for rate in rates]


def comparison() -> PeerComparison:
    loaded = {
        SERVED: turns(40, 60, 50),
        SERVED_FP32: turns(20, 30, 20),
        "naive": turns(10, 10, 20),
        "naive_bf16": turns(20, 5, 5),
    }
    alone = {name: turns(*(10 for _ in range(3))) for name in loaded} | {"naive": turns(20, 20, 20)}
    return PeerComparison(loaded, alone, DTYPES, dict.fromkeys(DTYPES, 1.0))


def test_ratios_are_medians_over_the_rounds_with_their_spread():
    ratios = comparison().ratios()
    assert ratios["served_over_naive"] == 4
    assert ratios["served_over_naive_spread"] == [2.5, 6]
    assert ratios["served_fp32_over_naive"] == 2
    assert ratios["served_over_naive_bf16"] == 10


def test_only_like_precision_is_compared_with_fp32():
    assert "served_fp32_over_naive_bf16" not in comparison().ratios()


def test_onnx_runtime_is_compared_with_all_peers_and_is_not_one_of_them():
    loaded = {**comparison().loaded, SERVED_ONNX: turns(40, 40, 60)}
    ratios = PeerComparison(loaded, loaded, {**DTYPES, SERVED_ONNX: "fp32"}, {}).ratios()
    assert ratios["served_onnx_over_naive"] == 4
    assert ratios["served_onnx_over_naive_bf16_spread"] == [2, 12]
    assert ratios["served_over_best_peer"] == 2.5


def test_best_peer_is_the_fastest_of_each_round():
    ratios = comparison().ratios()
    assert ratios["served_over_best_peer_spread"] == [2, 6]
    assert ratios["served_over_best_peer"] == 2.5


def test_ratio_for_a_single_caller_is_below_1_if_a_peer_is_faster():
    ratios = comparison().ratios()
    assert ratios["served_over_naive_alone"] == 0.5
    assert ratios["served_over_naive_alone_spread"] == [0.5, 0.5]


def test_where_fp32_is_the_default_there_is_no_second_ratio():
    only = {SERVED: turns(10), "naive": turns(5)}
    ratios = PeerComparison(only, only, {SERVED: "fp32", "naive": "fp32"}, {}).ratios()
    assert not [name for name in ratios if name.startswith(SERVED_FP32)]


def test_table_has_a_line_per_server_as_wide_as_its_heading():
    head, *lines = comparison().table().splitlines()
    assert [line.split()[0] for line in lines] == list(DTYPES)
    assert {len(line) for line in lines} == {len(head)}
    assert json.dumps(comparison().content())


def test_cosine_does_not_depend_on_the_lengths_of_vectors():
    vectors = np.eye(3, dtype=np.float32)
    assert smallest_cosine(vectors * 0.9, vectors) == pytest.approx(1)
    assert smallest_cosine(vectors[[0, 1, 0]], vectors) == 0


def test_reasons_name_the_version_that_was_tried():
    peers, reasons = available_peers(("fp32",), None)
    assert [peer.name for peer in peers] == ["naive", "sentence_transformers"]
    assert "0.0.78" in reasons["infinity"] and reasons["infinity"] == infinity.reason_to_skip()
    assert "0.33.0" in reasons["vllm"] and "--vllm" in reasons["vllm"]


def test_vllm_must_be_a_file(tmp_path):
    reason = vllm_cpu.reason_to_skip(tmp_path / "vllm")
    assert reason is not None and "is not a file" in reason
    (tmp_path / "vllm").touch()
    peers, reasons = available_peers(("fp32", "bf16"), tmp_path / "vllm")
    assert "vllm" not in reasons
    assert [peer.name for peer in peers][-2:] == ["vllm", "vllm_bf16"]


def test_error_of_a_peer_that_ends_at_once_contains_its_log(tmp_path):
    command = (sys.executable, "-c", "raise SystemExit('no such model')")
    with pytest.raises(RuntimeError, match=r"(?s)broken did not start.*no such model"):
        with running_peer(Peer("broken", "fp32", "json", command), tmp_path):
            pass


def test_pictures_are_sent_as_base64():
    request = json_request(Item("red", (JPEG,)))
    assert request["text"] == "red" and base64.b64decode(str(request["image"])) == JPEG
    assert json_request(Item("red"))["image"] is None


@pytest.mark.parametrize(("picture", "kind"), [(PNG, "png"), (JPEG, "jpeg")])
def test_chat_has_the_picture_before_the_text(picture, kind):
    content = chat_request(Item("red", (picture,)))["messages"][1]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    assert content[0]["image_url"]["url"].startswith(f"data:image/{kind};base64,")


def test_callers_send_items_in_order_and_enough_answers_are_measured():
    sent = []

    async def embed(item: Item) -> np.ndarray:
        sent.append(item.text)
        await asyncio.sleep(0)
        return np.zeros(1, np.float32)

    items = [Item(str(n)) for n in range(5)]
    turn = asyncio.run(run_callers(embed, items, 2, 0))
    assert sent == [str(n % 5) for n in range(turn.asked)]
    assert turn.asked >= 2 + 2 * MIN_ANSWERS_PER_CALLER
    assert 0 < turn.p50_ms <= turn.p99_ms


def test_random_vectors_have_unit_length():
    vectors = faiss_inprocess.unit_vectors(np.random.default_rng(0), 8, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
