"""The parts of the search benchmark; the figures that it measures are not checked."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.search.corpora import (
    CORPORA,
    QUERIES,
    VECTORS,
    CorpusWithQueries,
    MeasurementBudget,
    VectorCorpus,
    clustered,
)
from benchmarks.search.in_process import (
    CallSpeed,
    OperatingPoint,
    batches,
    build,
    measure,
    speedups,
)
from benchmarks.search.plot import plot
from benchmarks.search.run_benchmark import Results
from benchmarks.search.search_while_writing import WriteMeasurement
from benchmarks.search.served_index import ServedComparison
from benchmarks.search.writer_process import BATCH, batch_ids

SMALL = VectorCorpus("10k", 1500, 16, 30)
SPEED = CallSpeed(100.0, 1.0, 2.0)
KEYS = {
    "corpus",
    "served_over_inprocess_b32",
    "served_over_inprocess_b32_ivf",
    "recall_at_10",
    "speedup_over_exact",
    "written_corpus",
    "upserts_per_s",
    "p99_writing_over_idle",
}


def point(kind: str, recall: float, corpus: str = "10k", **parameters: int) -> OperatingPoint:
    return OperatingPoint(corpus, kind, parameters, 1.0, 10.0, 11.0, recall, SPEED, SPEED)


def served(kind: str, batch: int, ratio: float) -> ServedComparison:
    return ServedComparison("10k", kind, {}, batch, 3, 90.0, SPEED, SPEED, ratio, [0.8, 1.0], 1.0)


def test_vectors_are_the_same_every_time_and_of_unit_length():
    first, again = clustered(SMALL, VECTORS), clustered(SMALL, VECTORS)
    assert first.shape == (1500, 16) and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


def test_queries_come_from_the_same_mixture_and_are_not_in_the_corpus():
    data = CorpusWithQueries.of(SMALL, 64)
    nearest = (data.vectors[data.truth.neighbours[:, 0]] * data.truth.queries).sum(axis=1)
    assert 0.6 < nearest.mean() and nearest.max() < 1 - 1e-4


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_has_vectors_of_its_own_dimension(name):
    vectors = clustered(CORPORA[name], QUERIES, 8)
    assert vectors.shape == (8, CORPORA[name].dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_speed_has_queries_per_second_and_percentiles_of_calls():
    speed = CallSpeed.of([0.001] * 99 + [0.101], 32)
    assert speed.queries_per_s == 32 * 100 / 0.2
    assert speed.p50_ms == 1
    assert 1 < speed.p99_ms < 101


def test_batches_are_full():
    assert [part.shape for part in batches(np.zeros((70, 4), np.float32), 32)] == [(32, 4)] * 2


def test_kinds_are_measured_until_their_recall_is_high_enough():
    data = CorpusWithQueries.of(SMALL, 64)
    budget = MeasurementBudget(direct_s=0.001, enough=0.9)
    exact, ivf = (build(kind, data.vectors) for kind in ("exact", "ivf"))
    (point,) = measure(data, exact, budget)
    assert (point.recall_at_10, point.kind, point.parameters) == (1, "exact", {})
    points = list(measure(data, ivf, budget))
    assert [p.parameters["nprobe"] for p in points] == [2**n for n in range(len(points))]
    assert all(p.recall_at_10 < 0.9 for p in points[:-1]) and points[-1].recall_at_10 >= 0.9
    measured = speedups(exact, {"ivf": (ivf, points[-1].parameters)}, data.truth.queries, 1)
    assert set(measured) == {"ivf"} and measured["ivf"]["speedup_over_exact"] > 0


def test_kinds_with_compressed_vectors_are_rescored_by_whole_vectors():
    data = CorpusWithQueries.of(SMALL, 32)
    sq8 = build("sq8", data.vectors)
    assert data.truth.recall(sq8.search(data.truth.queries, sq8.parameters)) == 1


def test_half_of_a_written_batch_is_new_and_half_is_in_the_index():
    first, second = batch_ids(0, 1000), batch_ids(1, 1000)
    assert len(set(first) | set(second)) == 2 * BATCH
    assert sum(id_.isdigit() and int(id_) < 1000 for id_ in first) == BATCH // 2


def test_chosen_is_the_first_point_with_enough_recall_or_the_best():
    results = Results([point("ivf", 0.9, nprobe=1), point("ivf", 0.992, nprobe=2)])
    results.points += [point("ivf", 0.999, nprobe=4), point("hnsw", 0.8, ef_search=16)]
    assert results.chosen("10k", "ivf") == results.points[1]
    assert results.chosen("10k", "hnsw") == results.points[3]
    assert results.chosen("1m", "ivf") is None


def test_closing_line_is_one_line_and_has_its_keys():
    results = Results([point("exact", 1.0), point("ivf", 0.991, nprobe=8)])
    results.speedups["10k"] = {
        "ivf": {"speedup_over_exact": 5.0, "speedup_over_exact_spread": [4.0, 6.0]}
    }
    results.served = [served("exact", 1, 0.5), served("exact", 32, 0.9), served("ivf", 32, 0.85)]
    results.writes = WriteMeasurement(
        "10k", "ivf", 5000.0, 4000.0, 64, 3, 1, 0, SPEED, SPEED, 3.0, [2, 4], 1
    )
    summary = results.summary("10k")
    assert summary.keys() >= KEYS
    assert "\n" not in json.dumps(summary)
    assert summary["served_over_inprocess_b32"] == 0.9
    assert summary["served_over_inprocess_b32_ivf"] == 0.85
    assert (summary["recall_at_10"], summary["ivf_nprobe"]) == (0.991, 8)
    assert summary["speedup_over_exact"] == 5
    assert (summary["upserts_per_s"], summary["p99_writing_over_idle"]) == (5000, 3)
    assert json.dumps(dataclasses.asdict(results))


def test_figures_that_were_not_measured_are_null_in_the_closing_line():
    summary = Results().summary("1m")
    assert summary.keys() >= KEYS
    assert {value for name, value in summary.items() if name != "corpus"} == {None}


def test_rows_are_as_wide_as_their_headings():
    writes = WriteMeasurement("10k", "ivf", 5.0, 4.0, 64, 3, 1, 0, SPEED, SPEED, 3.0, [2, 4], 1)
    for row in (point("exact", 1.0), served("ivf", 32, 0.9), writes):
        assert len(str(row)) == len(row.HEAD)


def test_plot_has_a_panel_per_corpus(tmp_path):
    points = [point(kind, 0.9, name) for kind in ("exact", "usearch") for name in ("10k", "1m")]
    assert plot(points, tmp_path / "search.png").stat().st_size > 1000


def test_share_of_queries_whose_first_hit_is_relevant():
    from benchmarks.search.fused_texts import found_first

    corpus = np.eye(3, dtype=np.float32)
    queries = np.array([[1, 0, 0], [0, 0.9, 0.1], [0.5, 0, 0.8], [0, 0, 1]], np.float32)
    assert found_first(queries, corpus, [{0}, {0, 1}, {0, 1}, {2}]) == 0.75
