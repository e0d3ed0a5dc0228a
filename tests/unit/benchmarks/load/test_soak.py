"""Growth in a long run."""

import pytest

from benchmarks.load.report import soak
from benchmarks.load.scenario import parse_scenario
from tests.unit.benchmarks.load.samples import sample


def soak_of(samples, **values):
    content = {"about": "a test", "workload": "demo", "actions": [{"name": "embed"}]}
    content |= {"loop": "open", "rates": [2], "seconds": 594, "warm_up_s": 6, "soak": values}
    return soak.measure_growth(parse_scenario(content, "test"), samples, began=1000.0)


def test_growth_after_settling_is_found():
    def resident(minute):
        return 500 if minute < 1 else 1000 + 4 * minute

    samples = [sample(1000 + 30 * n, resident=resident(n / 2), files=5) for n in range(21)]
    grown = {one.name: one for one in soak_of(samples) if one.grew}
    assert list(grown) == ["qwen3_vl resident_bytes"]
    assert grown["qwen3_vl resident_bytes"].growth == pytest.approx(0.03, abs=0.005)
    assert [one.limit for one in soak.find_failures(list(grown.values()))] == ["max_growth"]
    assert soak.find_failures([*grown.values()])[0].where == "soak: qwen3_vl resident_bytes"
    assert not [one for one in soak_of(samples, growth=0.05) if one.grew]


def test_growth_at_the_start_and_noise_are_not_judged():
    samples = [
        sample(1000 + 30 * n, resident=500 if n < 3 else 1000 + n % 2, files=5 + n % 3)
        for n in range(21)
    ]
    assert not [one for one in soak_of(samples) if one.grew]


def test_growth_of_open_files_and_shared_memory_is_found():
    samples = [sample(1000 + 30 * n, files=5 + n, shared=10 + n) for n in range(21)]
    names = {one.name for one in soak_of(samples) if one.grew}
    assert names == {"qwen3_vl files", "shared_memory_bytes"}


def test_soak_with_too_few_samples_fails():
    assert soak_of([sample(1300), sample(1400)]) == []
    assert [one.limit for one in soak.find_failures([])] == ["min_looks"]
    assert soak.find_failures(None) == []
