"""Which emoji have the same concept, and that held-out concepts are not trained on."""

import pytest

from demo.emoji import captions
from demo.emoji.concepts import Picture, concept_of, draw_held_out, held_out_concepts, load_pictures
from lensemble_evaluation.dataset import load_dataset
from tests.paths import DATASET


@pytest.fixture(scope="module")
def pictures():
    return load_pictures()


@pytest.mark.parametrize(
    ("name", "concept"),
    [
        ("waving hand", "waving hand"),
        ("waving hand medium-dark skin tone", "waving hand"),
        ("woman running facing right dark skin tone", "person running"),
        ("person running", "person running"),
        ("man firefighter light skin tone", "firefighter"),
        ("woman red hair", "person"),
        ("old man", "person"),
        ("Mrs. Claus", "claus"),
        ("princess", "royalty"),
        ("women holding hands medium skin tone light skin tone", "people holding hands"),
        ("kiss woman man dark skin tone light skin tone", "kiss"),
        ("kiss mark", "kiss mark"),
        ("family man woman girl boy", "family"),
        ("deaf woman", "deaf person"),
        ("woman’s hat", "woman’s hat"),  # noqa: RUF001
        ("Isle of Man", "isle of man"),
    ],
)
def test_variants_share_a_concept(name, concept):
    assert concept_of(name, {"firefighter", "person running"}) == concept


def test_held_out_list_is_the_draw(pictures):
    drawn = draw_held_out({picture.concept for picture in pictures})
    assert held_out_concepts() == drawn
    assert len(drawn) == round(0.1 * len({picture.concept for picture in pictures}))


def test_every_variant_of_a_held_out_concept_is_held_out(pictures):
    """Groups by code points without skin tone, gender and direction, unlike the code under test."""
    same = str.maketrans({"👨": "🧑", "👩": "🧑", **dict.fromkeys("🏻🏼🏽🏾🏿\ufe0f♀♂➡")})
    by_shape = {}
    for picture in pictures:
        shape = picture.emoji.translate(same).rstrip("\u200d").replace("\u200d\u200d", "\u200d")
        by_shape.setdefault(shape, set()).add(picture.held_out)
    assert 1500 < len(by_shape) < len(pictures) / 2
    assert [shape for shape, sides in by_shape.items() if len(sides) > 1] == []


def test_names_of_held_out_pictures_are_not_trained_on(pictures):
    trained = {n.lower() for p in pictures if not p.held_out for n in p.names.values()}
    held_out = {n.lower() for p in pictures if p.held_out for n in p.names.values()}
    # The basketball and the computer mouse are held out. "Basket" is also the French name of a
    # shoe, and "mouse" is the mouse's Portuguese and Italian name and the animal's English one.
    assert trained & held_out == {"basket", "mouse"}


def test_shipped_held_out_pictures_differ_from_all_that_were_trained_on():
    """Compares pixels, because some islands have the same flag."""
    dataset = load_dataset(DATASET, "held_out")
    held_out = {entry.images[0].read_bytes() for entry in dataset.corpus}
    trained = load_dataset(DATASET, "trained").corpus
    assert not held_out & {entry.images[0].read_bytes() for entry in trained}


def picture(name: str, emoji: str = "x") -> Picture:
    return Picture(name, emoji, name, dict.fromkeys(captions.FRAMES, name), False)


def test_changes_name_the_difference():
    tone = "medium-dark skin tone"
    made = captions.changes(
        [
            picture("hand", "✋"),
            picture(f"hand {tone}", "✋🏾"),
            picture("red heart"),
            picture("blue heart"),
            picture("man running"),
            picture("woman running"),
        ]
    )
    differences = {(c.source, c.target): (c.words["en"], c.words["es"]) for c in made}
    assert differences == {
        (0, 1): ("with medium-dark skin", "con piel oscura media"),
        (3, 2): ("red", "rojo"),
        (2, 3): ("blue", "azul"),
        (5, 4): ("a man", "un hombre"),
        (4, 5): ("a woman", "una mujer"),
    }
