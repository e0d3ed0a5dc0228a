"""The evaluation dataset."""

import pytest

from demo.emoji.captions import FRAMES
from demo.emoji.concepts import Picture
from demo.emoji.write_dataset import SAME_THING, write_dataset
from lensemble_client import InvalidInputError
from lensemble_evaluation.dataset import load_dataset, splits
from tests.pytorch.demo.shapes import PICTURES, RENDERED, draw_shape


def test_written_dataset_can_be_evaluated(tmp_path):
    """Each split searches the right pictures, and each query has its judgments."""
    toned = [
        Picture(name, emoji, "hand", dict.fromkeys(FRAMES, name), True)
        for name, emoji in (("hand", "✋"), ("hand dark skin tone", "✋🏿"))
    ]
    hands = {
        p.id: draw_shape(colour, "bar") for p, colour in zip(toned, ("pink", "brown"), strict=True)
    }
    # Held out by its name, but it looks like a picture that is trained on.
    twin = Picture("twin", "x", "twin", dict.fromkeys(FRAMES, "twin"), True)
    toned, hands = [*toned, twin], {**hands, "twin": RENDERED["red circle"]}
    write_dataset(tmp_path / "d", [*PICTURES, *toned], RENDERED | hands)
    loaded = {split: load_dataset(tmp_path / "d", split) for split in splits(tmp_path / "d")}
    assert {name: len(split.corpus) for name, split in loaded.items()} == {
        "all": 27,
        "held_out": 2,
        "trained": 24,
    }
    held_out = loaded["held_out"]
    assert {entry.document["task"] for entry in held_out.queries} == {
        "text to picture",
        "picture to picture",
        "picture to variants",
        "picture and text to picture",
    }
    (fused,) = [q for q in held_out.queries if q.id.startswith("fused-es")]
    assert fused.text == "lo mismo, pero con piel oscura"
    assert held_out.excluded[fused.id] == {"hand"}
    assert held_out.qrels[fused.id] == {"hand dark skin tone": 1}
    assert held_out.qrels["variants-hand"] == {"hand dark skin tone": 1}
    instructions = {q.document["task"]: q.instruction for q in held_out.queries}
    assert instructions.pop("picture to variants") == SAME_THING
    assert set(instructions.values()) == {None}
    write_dataset(tmp_path / "d", [*PICTURES, *toned], RENDERED | hands)  # replaces its own
    with pytest.raises(InvalidInputError, match="is not a dataset; choose another folder"):
        write_dataset(tmp_path, PICTURES, RENDERED)
    assert "SIL OPEN FONT LICENSE" in (tmp_path / "d" / "LICENSE").read_text()
    assert all(entry.item().images for entry in held_out.corpus)
