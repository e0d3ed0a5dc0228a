"""Small scenarios for the tests of the load test's modules."""

from benchmarks.load.scenario import parse_scenario

CLOSED_LOOP = {
    "about": "a test",
    "workload": "demo",
    "actions": [{"name": "embed"}],
    "users": [1, 4],
    "seconds": 10,
    "warm_up_s": 2,
}
OPEN_LOOP = {**CLOSED_LOOP, "loop": "open", "users": (), "rates": [2], "arrivals": "constant"}


def closed_loop(**values):
    return parse_scenario({**CLOSED_LOOP, **values}, "test")


def open_loop(**values):
    return parse_scenario({**OPEN_LOOP, **values}, "test")
