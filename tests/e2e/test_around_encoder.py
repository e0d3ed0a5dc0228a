"""The benchmark of everything around the encoder, with few texts."""

import pytest

from benchmarks.serving.around_encoder import measure, table

pytestmark = pytest.mark.slow


def test_both_ways_are_measured_with_the_cost_of_each_process():
    results = measure(1, {"embed_many": 64, "embed": 32})
    for way in ("embed_many", "embed"):
        assert results[way]["texts_per_s"] > 0
        assert results[way].keys() == {
            "texts_per_s",
            "callers_us",
            "triton_us",
            "preprocess_us",
            "qwen3_vl_us",
        }
    header, first, second, ratio = table(results).splitlines()
    assert header.split()[:2] == ["texts/s", "callers"]
    assert (first.split()[0], second.split()[0]) == ("embed_many", "embed")
    assert ratio.split()[0] == "embed_many_over_embed"
