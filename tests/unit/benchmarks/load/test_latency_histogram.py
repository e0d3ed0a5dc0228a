"""Percentiles of histograms, and merging them."""

import json

import numpy as np
import pytest

from benchmarks.load.report.latency_histogram import LatencyHistogram


def test_percentiles_are_those_of_all_requests():
    values = np.random.default_rng(0).lognormal(3, 1, 20_000)
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    for percent in (1, 50, 95, 99, 99.9):
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.003)
    assert histogram.percentile(100) == histogram.max_ms == values.max()
    assert histogram.mean_ms == pytest.approx(values.mean())


def test_empty_histogram_has_no_percentile():
    assert LatencyHistogram().percentile(50) is None and LatencyHistogram().mean_ms is None


def test_percentile_is_never_above_the_slowest():
    histogram = LatencyHistogram()
    histogram.add(1613.9)
    assert histogram.percentile(50) <= 1613.9


def test_workers_latencies_are_merged_not_averaged():
    fast, slow = LatencyHistogram(), LatencyHistogram()
    for _ in range(99):
        fast.add(10)
    slow.add(1000)
    fast.merge(LatencyHistogram.from_json(json.loads(json.dumps(slow.to_json()))))
    assert fast.percentile(50) == pytest.approx(10, rel=0.003)
    assert fast.percentile(99) == pytest.approx(10, rel=0.003)  # the mean of both would be 505
    assert fast.percentile(99.5) == pytest.approx(1000, rel=0.003)
    assert fast.max_ms == 1000 and fast.count == 100
