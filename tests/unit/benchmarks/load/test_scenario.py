"""Scenario files: those that ship, and what is rejected."""

import json

import pytest

from benchmarks.common.workloads import MIXES, WORKLOADS
from benchmarks.load.scenario import FOLDER, load_scenario, parse_scenario
from lensemble_contract.errors import InvalidInputError
from tests.unit.benchmarks.load.scenarios import CLOSED_LOOP, closed_loop


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_scenario_can_be_read(path):
    scenario = load_scenario(path.stem)
    assert scenario.name == path.stem and scenario.about.endswith((".", "?"))
    assert scenario.limits.max_error_rate == 0
    again = parse_scenario(json.loads(scenario.model_dump_json(exclude_none=True)), "again")
    assert again == scenario


def test_scenarios_accept_all_workloads_and_mixes():
    for name in WORKLOADS:
        assert closed_loop(workload=name).workload == name
    for mix in MIXES:
        assert closed_loop(actions=[{"name": "embed", "mix": mix}]).actions[0].mix == mix


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"user": [1]}, r"no key 'user' .*expected one of .*users"),
        ({"limits": {"max_p999_ms": 1}}, r"'limits.max_p999_ms'.*max_p99_ms"),
        ({"actions": [{"name": "embed", "kind": "x"}]}, r"'actions.0.kind'.*mix"),
        ({"actions": [{"name": "delete"}]}, r"actions.0.name = 'delete': .*'embed'"),
        ({"workload": "huge"}, r"workload = 'huge': .*'demo' or 'small'"),
        ({"users": [0]}, r"users.0 = 0: .*greater than 0"),
        ({"items": 499}, r"items = 499: .*500"),
        ({"rates": [5]}, r"'users' and 'rates'; expected 'users'"),
        ({"users": ()}, r"no key; expected 'users'"),
        ({"loop": "open"}, r"'users'; expected 'rates' or 'shares'"),
        ({"actions": [{"name": "search"}]}, r"set index_items"),
        ({"batch": 8, "actions": [{"name": "ingest"}]}, r"batch = 8.*use 1"),
        ({"warm_up_s": 1}, r"warm_up_s = 1: .*use 1.5 or more"),
    ],
)
def test_invalid_values_are_rejected_with_what_is_expected(values, message):
    with pytest.raises(InvalidInputError, match=message):
        closed_loop(**values)


def test_missing_key_is_named():
    with pytest.raises(InvalidInputError, match=r"key 'about' is missing"):
        parse_scenario({key: CLOSED_LOOP[key] for key in CLOSED_LOOP if key != "about"}, "test")


def test_unknown_scenario_is_rejected_with_the_known_ones():
    with pytest.raises(InvalidInputError, match=r"'smok'; expected one of .*smoke"):
        load_scenario("smok")


def test_file_that_is_not_toml_is_rejected(tmp_path):
    (tmp_path / "bad.toml").write_text("about = ")
    with pytest.raises(InvalidInputError, match=r"cannot read 'bad.toml'"):
        load_scenario(str(tmp_path / "bad.toml"))
