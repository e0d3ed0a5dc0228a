"""The items that users send."""

from benchmarks.common.workloads import WORKLOADS
from benchmarks.load.users.item_file import INDEX, ItemCycle, read_items, write_items
from lensemble_client import Item
from tests.unit.benchmarks.load.scenarios import closed_loop


def test_items_are_distinct_and_come_back_as_they_were(tmp_path):
    scenario = closed_loop(
        actions=[{"name": "search", "mix": "text"}, {"name": "embed", "mix": "picture"}],
        index_items=12,
    )
    write_items(scenario, tmp_path / "items.jsonl")
    items = read_items(tmp_path / "items.jsonl")
    assert {mix: len(of_mix) for mix, of_mix in items.items()} == {
        "text": 600, "picture": 600, INDEX: 12,
    }  # fmt: skip
    assert items["picture"][:500] == WORKLOADS["demo"].items("picture", 500)
    assert len({item.text for item in items["text"]}) == 600
    assert len({item.images for item in items["picture"][:500]}) == 500


def test_no_item_is_repeated_before_all_were_sent_and_workers_share_none():
    items = [Item(str(n)) for n in range(10)]
    parts = [ItemCycle(items, worker, 3) for worker in range(3)]
    taken = [[*part.take(2), *part.take(1)] for part in parts]
    assert len({item.text for part in taken for item in part}) == 9
    alone = ItemCycle(items)
    assert alone.take(10) == items and alone.take(1) == items[:1]
