"""Parsers of what others send, on ten thousand inputs: an answer, or an error that names the field.

`python -m benchmarks.faults.fuzz` goes on for as long as one likes, guided by coverage.
"""

import io
import json
import sqlite3
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lensemble.checkpoint import TOKENIZER_FILE, Checkpoint
from lensemble.index.storage.filter import Filter
from lensemble.preprocess.patches import picture_to_patches
from lensemble.preprocess.prompt import IMAGE_PAD, VISION_START, PromptBuilder
from lensemble_client import InvalidInputError

LONGEST = 500
"""Characters of an error: what was sent is quoted, and not all of it."""
FEW = settings(max_examples=1000, deadline=None, suppress_health_check=[*HealthCheck])
MANY = settings(FEW, max_examples=4000)


def sound():
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for picture, kind, more in (
        (rgb, "PNG", {}),
        (rgb, "JPEG", {"exif": exif, "icc_profile": b"x" * 200}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb, "WEBP", {"lossless": True, "exif": exif}),
        (rgb.quantize(), "GIF", {"save_all": True, "append_images": [rgb.quantize()]}),
        (rgb, "BMP", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("LA"), "PNG", {}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **more)
        made.append(buffer.getvalue())
    return made


SOUND = sound()


@st.composite
def damaged(draw):
    """A picture with some of its bytes changed, moved, doubled or gone."""
    data = bytearray(draw(st.sampled_from(SOUND)))
    # Half of the damage is in the first bytes, where sizes, types and offsets stand.
    for _ in range(draw(st.integers(0, 6))):
        if not data:
            break
        end = draw(st.sampled_from([min(len(data), 64), len(data)])) - 1
        place = draw(st.integers(0, end))
        what = draw(st.sampled_from(["byte", "number", "cut", "double", "insert", "drop"]))
        if what == "byte":
            data[place] = draw(st.integers(0, 255))
        elif what == "number":
            value = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000]))
            order = draw(st.sampled_from(["big", "little"]))
            data[place : place + 4] = value.to_bytes(4, order)
        elif what == "cut":
            del data[place:]
        elif what == "double":
            data[place:place] = data[place : place + draw(st.integers(1, 200))]
        elif what == "insert":
            data[place:place] = draw(st.binary(max_size=30))
        else:
            del data[place : place + draw(st.integers(1, 40))]
    return bytes(data)


def refused(error, field):
    """The error of a parser names the field and stays readable."""
    assert error.field.startswith(field)
    assert len(str(error)) <= LONGEST
    assert str(error).isprintable()


@pytest.fixture(scope="module")
def opened(checkpoint):
    return Checkpoint.open(checkpoint)


@MANY
@given(data=damaged(), scaled=st.booleans())
def test_pictures(opened, data, scaled):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
        try:
            rows, (_, down, across) = picture_to_patches(
                data, opened.profile.image, "image[0]", scaled=scaled
            )
        except InvalidInputError as error:
            return refused(error, "image[0]")
    assert rows.shape == (down * across, 768)
    assert rows.dtype == np.uint8
    return None


@FEW
@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_what_is_no_picture(opened, data):
    for sent in (data, b"data:image/png;base64," + data):
        with pytest.raises(InvalidInputError) as caught:
            picture_to_patches(sent, opened.profile.image, "image[0]")
        refused(caught.value, "image[0]")


OPERATORS = ("$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$contains")
NAMES = st.one_of(
    st.sampled_from(["year", "a.b", "", "$where", "$and", "$or", "$not", *OPERATORS]),
    st.text(max_size=12),
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@st.composite
def filters(draw):
    """JSON in the shape of a filter, some of it with characters changed."""
    text = json.dumps(draw(st.dictionaries(NAMES, JSON, max_size=4)))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.text(max_size=3)) + text[place + draw(st.integers(0, 3)) :]
    return text


DOCUMENTS = [{}, {"year": 2019, "a": {"b": "x"}}, {"year": "x", "a": [1]}, {"": None, "a": None}]


@MANY
@given(filters())
def test_filters(text):
    """What passes is a condition that SQLite knows; what does not says why."""
    try:
        made = Filter.parse(text)
    except InvalidInputError as error:
        return refused(error, "filter")
    with sqlite3.connect(":memory:") as connection:
        for document in DOCUMENTS:
            rows = connection.execute(
                f"SELECT {made.sql} FROM (SELECT ? AS document)",
                (*made.parameters, json.dumps(document)),
            ).fetchall()
            assert len(rows) == 1 and rows[0][0] in (0, 1, None)
    return None


SPECIAL = ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>")
TEXTS = st.lists(st.sampled_from(SPECIAL) | st.text(max_size=20), max_size=5).map("".join)


@FEW
@given(TEXTS, st.none() | TEXTS, st.lists(st.integers(1, 9), max_size=3))
def test_prompts(opened, text, instruction, pictures):
    """Whatever is written: no special token comes in, and every picture has its places."""
    prompt = _prompt(opened)
    try:
        ids = prompt.ids(text, pictures, instruction)
    except InvalidInputError as error:
        return refused(error, "")
    tokens = opened.profile.prompt.tokens
    assert (ids == tokens[IMAGE_PAD]).sum() == sum(pictures)
    assert (ids == tokens[VISION_START]).sum() == len(pictures)
    return None


_made = {}


def _prompt(opened):
    if opened.folder not in _made:
        _made[opened.folder] = PromptBuilder(opened.folder / TOKENIZER_FILE, opened.profile)
    return _made[opened.folder]
