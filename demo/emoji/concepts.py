"""The pictures, their names and their concepts, and which concepts are held out.

A concept is an emoji regardless of skin tone, gender, hair and, for people, direction: "woman
running facing right dark skin tone" and "man running" have the same concept. A concept is held out
with all its variants, so that none of them is seen in training.
"""

from __future__ import annotations

import random
import re
import unicodedata
from dataclasses import dataclass
from importlib import resources

import emoji

LANGUAGES = ("en", "es", "fr", "de", "pt", "it")
SKIN_TONES = {
    "\U0001f3fb": "light",
    "\U0001f3fc": "medium-light",
    "\U0001f3fd": "medium",
    "\U0001f3fe": "medium-dark",
    "\U0001f3ff": "dark",
}
HELD_OUT_SHARE = 0.1
HELD_OUT_FILE = "held_out.txt"

_SOMEBODY = "(man|woman|boy|girl|person|adult|child)"
# Replacements that are applied in this order to an English name in lower case.
_VARIANTS = (
    (re.compile(r" (medium-)?(light|medium|dark) skin tone"), ""),
    (re.compile(r" facing right$"), ""),
    (re.compile(rf"^(family|couple with heart|kiss)( {_SOMEBODY})+$"), r"\1"),
    (re.compile(r"^(old man|old woman|older person|boy|girl|child)$"), "person"),
    (re.compile(r"^(woman and man|men|women)\b(?!\u2019)"), "people"),
    (re.compile(r"\b(?<!of )(man|woman)\b(?!\u2019)"), "person"),
    (re.compile(r"^person (bald|beard|(blond|curly|red|white) hair)$"), "person"),
    (re.compile(r"^(mr|mrs|mx|santa)\.? claus$"), "claus"),
    (re.compile(r"^(prince|princess|person with crown)$"), "royalty"),
    (re.compile(r"^(merman|mermaid)$"), "merperson"),
    (re.compile(r"^(men|women)\u2019s room$"), "room"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Picture:
    """One emoji.

    Attributes:
        id: Code points in hexadecimal, such as `1f44b-1f3ff`.
        emoji: The characters.
        concept: What it shows, regardless of skin tone, gender and hair.
        names: Language -> name.
        held_out: Whether its concept is left out of training.
    """

    id: str
    emoji: str
    concept: str
    names: dict[str, str]
    held_out: bool

    @property
    def skin_tone(self) -> str:
        """The skin tone; empty if the picture has none or two."""
        tones = {SKIN_TONES[c] for c in self.emoji if c in SKIN_TONES}
        return tones.pop() if len(tones) == 1 else ""


def load_pictures() -> list[Picture]:
    """Loads all fully qualified emoji with names in all `LANGUAGES`, ordered by code points."""
    for language in LANGUAGES[1:]:
        emoji.config.load_language(language)
    entries = {
        characters: {language: readable(entry[language]) for language in LANGUAGES}
        for characters, entry in sorted(emoji.EMOJI_DATA.items())
        if entry["status"] == emoji.STATUS["fully_qualified"] and entry.keys() >= set(LANGUAGES)
    }
    neutral = {names["en"].lower() for names in entries.values()}
    held_out = set(held_out_concepts())
    pictures = []
    for characters, names in entries.items():
        concept = concept_of(names["en"], neutral)
        code_points = "-".join(f"{ord(c):x}" for c in characters)
        pictures.append(Picture(code_points, characters, concept, names, concept in held_out))
    return pictures


def readable(name: str) -> str:
    """Turns `:corazón_rojo:` into `corazón rojo`."""
    return unicodedata.normalize("NFC", name.strip(":").replace("_", " "))


def concept_of(name: str, all_names: set[str]) -> str:
    """Returns the concept of which an English name is a variant.

    Args:
        name: Name, such as `woman firefighter dark skin tone`.
        all_names: All English names in lower case; `person firefighter` becomes `firefighter` if
            that is one of them.

    Returns:
        Concept, such as `firefighter`.
    """
    concept = name.lower()
    for pattern, general in _VARIANTS:
        concept = pattern.sub(general, concept)
    job = concept.removeprefix("person ")
    return job if job in all_names else concept


def draw_held_out(concepts: set[str], seed: int = 0) -> list[str]:
    """Draws `HELD_OUT_SHARE` of the concepts; `held_out.txt` contains such a draw."""
    ordered = sorted(concepts)
    return sorted(random.Random(seed).sample(ordered, round(HELD_OUT_SHARE * len(ordered))))


def held_out_concepts() -> list[str]:
    """Returns the concepts that are left out of training, as listed in `held_out.txt`."""
    text = (resources.files(__package__) / HELD_OUT_FILE).read_text("utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]
