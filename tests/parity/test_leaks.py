"""Packed items must not see each other, and the test of that must be able to fail.

With Transformers' own packing, three mistakes leak without an error: leaving the cache on, giving
three rows of positions, and giving a mask of ones. Each mistake is made here, and the check that
the encoder passes must fail with it. It must also fail with mistakes of our own: wrong boundaries
of items in the text tower or of pictures in the vision tower.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen3VLModel

from lensemble.encoder.packing import PackedBatch, pack
from lensemble_client import Item
from tests.pictures import encode, textured

TOLERANCE = 1e-5
TEXTS = [Item("a scratch on the door"), Item("¿dónde está el golpe?"), Item("hail")]
PICTURES = [
    Item(images=(encode(textured(96, 64, 1)),)),
    Item("and a text", (encode(textured(64, 96, 2)), encode(textured(96, 96, 3)))),
    Item(images=(encode(textured(96, 64, 4)),)),
]


def leak(forward, pipeline, items) -> float:
    """Returns the largest change of a vector component when items share a batch."""
    features = [pipeline.preprocess(item) for item in items]
    spec = pipeline.encoder.input_spec
    alone = [forward(pack([item], spec)) for item in features]
    together = forward(pack(features, spec))
    return float((torch.cat(alone) - together).abs().max())


@pytest.mark.parametrize("items", [TEXTS, PICTURES, TEXTS + PICTURES])
def test_encoder_does_not_leak(pipeline, items):
    assert leak(pipeline.encoder.forward, pipeline, items) <= TOLERANCE


@pytest.fixture(scope="module")
def transformers_model(sources):
    return Qwen3VLModel.from_pretrained(
        sources["qwen3-vl-embedding"], attn_implementation="sdpa"
    ).eval()


def with_restarting_row(packed):
    """M-RoPE positions (3, 1, L) and, before them, a row that restarts at 0 for every item."""
    restarting = torch.cat([torch.arange(length) for length in packed.cu_seqlens.diff()])
    return torch.cat([restarting[None, None], packed.position_ids])


def transformers_packing(model, **change):
    """Packs texts as Transformers does: positions restart, and there is no mask and no cache."""

    @torch.inference_mode()
    def forward(packed: PackedBatch) -> torch.Tensor:
        arguments = {
            "input_ids": packed.input_ids,
            "position_ids": with_restarting_row(packed),
            "attention_mask": None,
            "use_cache": False,
        }
        arguments |= {name: value(packed) for name, value in change.items()}
        hidden = model(**arguments).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden[packed.cu_seqlens[1:].long() - 1], dim=-1)

    return forward


def test_correct_use_of_transformers_packing_does_not_leak(transformers_model, pipeline):
    assert leak(transformers_packing(transformers_model), pipeline, TEXTS) <= TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        {"use_cache": lambda packed: True},
        {"position_ids": lambda packed: packed.position_ids},
        {"attention_mask": lambda packed: torch.ones_like(packed.input_ids)},
    ],
    ids=["cache left on", "three rows of positions", "mask of ones"],
)
def test_mistakes_with_transformers_packing_are_found_to_leak(transformers_model, pipeline, change):
    forward = transformers_packing(transformers_model, **change)
    assert leak(forward, pipeline, TEXTS) > 1000 * TOLERANCE


@pytest.mark.parametrize("mistake", ["cache left on", "no positions", "mask of ones"])
def test_these_mistakes_do_not_affect_the_encoder(pipeline, monkeypatch, mistake):
    """Our attention uses only the boundaries, so none of the three mistakes can leak."""
    tower = pipeline.encoder.model.language_model
    forward = tower.forward

    def forward_with_mistake(**arguments):
        if mistake == "cache left on":
            arguments["use_cache"] = True
        elif mistake == "no positions":
            # Attention uses differences of positions, so counting on through all items is harmless
            # for texts, if no item sees another.
            arguments["position_ids"] = None
        else:
            arguments["attention_mask"] = torch.ones(arguments["inputs_embeds"].shape[:2])
        return forward(**arguments)

    monkeypatch.setattr(tower, "forward", forward_with_mistake)
    assert leak(pipeline.encoder.forward, pipeline, TEXTS + PICTURES) <= TOLERANCE


@pytest.mark.parametrize(
    ("items", "damage"),
    [
        (
            TEXTS,
            lambda p: replace(
                p,
                cu_seqlens=p.cu_seqlens.clone().index_add_(
                    0, torch.tensor([1]), torch.tensor([1], dtype=torch.int32)
                ),
            ),
        ),
        (
            PICTURES,
            lambda p: replace(p, vision_cu_seqlens=p.vision_cu_seqlens[[0, -1]]),
        ),
    ],
    ids=["text boundary off by one", "pictures in one segment"],
)
def test_wrong_boundaries_are_found_to_leak(pipeline, items, damage):
    def forward(packed: PackedBatch) -> torch.Tensor:
        alone = len(packed.cu_seqlens) == 2
        return pipeline.encoder.forward(packed if alone else damage(packed))

    assert leak(forward, pipeline, items) > 10 * TOLERANCE


def test_lost_text_boundaries_are_found_to_leak(pipeline, monkeypatch):
    """Only the attention gets one segment; pooling still gets the boundaries of the items."""
    tower = pipeline.encoder.model.language_model
    forward = tower.forward

    def leaking(**arguments):
        boundaries = arguments["cu_seq_lens_q"][[0, -1]]
        length = arguments["inputs_embeds"].shape[1]
        return forward(**arguments | {"cu_seq_lens_q": boundaries, "max_length_q": length})

    monkeypatch.setattr(tower, "forward", leaking)
    assert leak(pipeline.encoder.forward, pipeline, TEXTS) > 1000 * TOLERANCE


def test_padding_is_never_computed(pipeline):
    """The content of padding has no effect, because it does not reach the packed row."""
    from lensemble.preprocess.features import pad, unpad

    features = [pipeline.preprocess(item) for item in TEXTS + PICTURES]
    rows = pad(features)
    shapes = [f.patches.shape for f in features]
    for row, shape in enumerate(shapes):
        rows["patches"][row, shape[0] :] = 255
    packed = pack(unpad(rows), pipeline.encoder.input_spec)
    assert packed.patches.shape[0] == sum(shape[0] for shape in shapes)
    np.testing.assert_array_equal(
        pipeline.encoder.forward(packed),
        pipeline.encoder.forward(pack(features, pipeline.encoder.input_spec)),
    )
