"""Which pictures a run trains on and keeps back."""

import pytest

from demo.emoji import captions
from demo.emoji.concepts import load_pictures
from demo.training.training_data import tokenizer_corpus
from demo.training.training_plan import TrainingPlan, split_pictures


@pytest.mark.parametrize("validate", [False, True])
def test_nothing_held_out_is_trained_on(validate):
    pictures = load_pictures()
    trained_on, kept_back = split_pictures(pictures, TrainingPlan(validate=validate))
    concepts, kept_back_concepts = ({p.concept for p in group} for group in (trained_on, kept_back))
    held_out = {p.concept for p in pictures if p.held_out}
    assert len(trained_on) + len(kept_back) == sum(not p.held_out for p in pictures)
    assert not concepts & held_out
    assert not kept_back_concepts & (concepts | held_out)
    assert bool(kept_back_concepts) == validate
    words = {p.id: {"en": [f"keyword of {p.concept}"]} for p in pictures}
    corpus = set(tokenizer_corpus(trained_on, words))
    assert not corpus & {f"keyword of {concept}" for concept in held_out | kept_back_concepts}
    ends = {
        trained_on[n].concept for c in captions.changes(trained_on) for n in (c.source, c.target)
    }
    assert ends <= concepts
