"""Texts made of names: what somebody might type, and how two pictures differ in words."""

from __future__ import annotations

import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from demo.emoji.concepts import Picture

FRAMES = {
    "en": ("a picture of {}", "an emoji of {}", "{} emoji", "photo: {}", "show me {}"),
    "es": ("una imagen de {}", "un emoji de {}", "emoji {}", "foto: {}", "enséñame {}"),
    "fr": ("une image de {}", "un emoji {}", "émoji {}", "photo : {}", "montre-moi {}"),
    "de": ("ein Bild von {}", "{} als Emoji", "Emoji {}", "Foto: {}", "zeig mir {}"),
    "pt": ("uma imagem de {}", "um emoji de {}", "emoji {}", "foto: {}", "mostre {}"),
    "it": ("un'immagine di {}", "un'emoji di {}", "emoji {}", "foto: {}", "mostrami {}"),
}
SAME_BUT = {
    "en": ("the same, but {}", "{}", "like this, but {}"),
    "es": ("lo mismo, pero {}", "{}", "igual, pero {}"),
    "fr": ("la même chose, mais {}", "{}", "pareil, mais {}"),
    "de": ("das Gleiche, aber {}", "{}", "so, aber {}"),
    "pt": ("o mesmo, mas {}", "{}", "igual, mas {}"),
    "it": ("lo stesso, ma {}", "{}", "uguale, ma {}"),
}
SKIN_TONES = {
    "en": ("with {} skin", {"light": "light", "medium-light": "medium-light", "medium": "medium",
                            "medium-dark": "medium-dark", "dark": "dark"}),
    "es": ("con piel {}", {"light": "clara", "medium-light": "clara media", "medium": "media",
                           "medium-dark": "oscura media", "dark": "oscura"}),
    "fr": ("avec la peau {}", {"light": "claire", "medium-light": "modérément claire",
                               "medium": "légèrement mate", "medium-dark": "mate",
                               "dark": "foncée"}),
    "de": ("mit {} Haut", {"light": "heller", "medium-light": "mittelheller",
                           "medium": "mittlerer", "medium-dark": "mitteldunkler",
                           "dark": "dunkler"}),
    "pt": ("com pele {}", {"light": "clara", "medium-light": "morena clara", "medium": "morena",
                           "medium-dark": "morena escura", "dark": "escura"}),
    "it": ("con la carnagione {}", {"light": "chiara", "medium-light": "abbastanza chiara",
                                    "medium": "olivastra", "medium-dark": "abbastanza scura",
                                    "dark": "scura"}),
}  # fmt: skip
COLOURS = {
    "red": ("red", "rojo", "rouge", "rot", "vermelho", "rosso"),
    "orange": ("orange", "naranja", "orange", "orange", "laranja", "arancione"),
    "yellow": ("yellow", "amarillo", "jaune", "gelb", "amarelo", "giallo"),
    "green": ("green", "verde", "vert", "grün", "verde", "verde"),
    "blue": ("blue", "azul", "bleu", "blau", "azul", "blu"),
    "purple": ("purple", "morado", "violet", "lila", "roxo", "viola"),
    "brown": ("brown", "marrón", "marron", "braun", "marrom", "marrone"),
    "black": ("black", "negro", "noir", "schwarz", "preto", "nero"),
    "white": ("white", "blanco", "blanc", "weiß", "branco", "bianco"),
}
GENDERS = {
    "man": ("a man", "un hombre", "un homme", "ein Mann", "um homem", "un uomo"),
    "woman": ("a woman", "una mujer", "une femme", "eine Frau", "uma mulher", "una donna"),
}


def as_typed(text: str, language: str, rng: random.Random) -> str:
    """Returns a name as somebody might type it: in a phrase, without accents, in another case.

    Args:
        text: The name.
        language: Language of the name, a key of `FRAMES`.
        rng: Source of the random choices.
    """
    if rng.random() < 0.25:
        text = rng.choice(FRAMES[language]).format(text)
    chance = rng.random()
    if chance < 0.1:
        text = without_accents(text)
    elif chance < 0.25:
        text = text.lower()
    elif chance < 0.35:
        text = text[0].upper() + text[1:]
    return text


def without_accents(text: str) -> str:
    """Removes accents: `corazón` becomes `corazon`."""
    letters = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


@dataclass(frozen=True, slots=True)
class Change:
    """The difference between two pictures of the same kind, in words.

    Attributes:
        source: Position of the picture that is shown.
        target: Position of the picture that is meant.
        words: Language -> the difference, such as `with dark skin`.
    """

    source: int
    target: int
    words: dict[str, str]


def changes(pictures: Sequence[Picture]) -> list[Change]:
    """Returns every pair of pictures that differ in one skin tone, gender or colour."""
    return [*_by_skin_tone(pictures), *_by_word(pictures, COLOURS), *_by_word(pictures, GENDERS)]


def _by_skin_tone(pictures: Sequence[Picture]) -> Iterator[Change]:
    groups: dict[str, list[int]] = defaultdict(list)
    for n, picture in enumerate(pictures):
        tone = picture.skin_tone
        name = picture.names["en"]
        groups[name.replace(f" {tone} skin tone", "") if tone else name].append(n)
    for group in groups.values():
        for target in group:
            if tone := pictures[target].skin_tone:
                words = {
                    language: frame.format(tones[tone])
                    for language, (frame, tones) in SKIN_TONES.items()
                }
                yield from (Change(n, target, words) for n in group if n != target)


def _by_word(pictures: Sequence[Picture], table: Mapping[str, tuple[str, ...]]) -> Iterator[Change]:
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for n, picture in enumerate(pictures):
        words = picture.names["en"].split()
        for position, word in enumerate(words):
            if word in table:
                groups[" ".join([*words[:position], "_", *words[position + 1 :]])][word] = n
    for group in groups.values():
        for word, target in group.items():
            difference = dict(zip(FRAMES, table[word], strict=True))
            yield from (Change(n, target, difference) for n in group.values() if n != target)
