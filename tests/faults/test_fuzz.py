"""Parsers of input from callers: for every input a result, or an error that names the field.

The quick tests try a hundred random inputs each, the slow ones ten thousand in all.
`python -m benchmarks.faults.fuzz` runs without end, guided by coverage.
"""

import contextlib
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
from lensemble_contract.errors import InvalidInputError
from tests.paths import CHECKPOINT

MAX_ERROR = 500  # characters; an error quotes the input, but not all of it
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[*HealthCheck])
LONG = settings(QUICK, max_examples=1000)
LONGEST = settings(QUICK, max_examples=4000)


@pytest.fixture(scope="module")
def checkpoint():
    return Checkpoint.open(CHECKPOINT)


@pytest.fixture(scope="module")
def prompt(checkpoint):
    return PromptBuilder(checkpoint.folder / TOKENIZER_FILE, checkpoint.profile)


def check_error(error, field):
    """Checks that the error of a parser names the field and is readable."""
    assert error.field.startswith(field)
    assert len(str(error)) <= MAX_ERROR
    assert str(error).isprintable()


def valid_pictures():
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = []
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
        encoded.append(buffer.getvalue())
    return encoded


PICTURES = valid_pictures()


@st.composite
def damaged_pictures(draw):
    """A picture of which some bytes were changed, inserted, repeated or removed."""
    data = bytearray(draw(st.sampled_from(PICTURES)))
    # Half of the damage is in the first 64 bytes, which contain sizes, types and offsets.
    for _ in range(draw(st.integers(0, 6))):
        if not data:
            break
        end = draw(st.sampled_from([min(len(data), 64), len(data)])) - 1
        place = draw(st.integers(0, end))
        damage = draw(st.sampled_from(["byte", "number", "cut", "double", "insert", "drop"]))
        if damage == "byte":
            data[place] = draw(st.integers(0, 255))
        elif damage == "number":
            value = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000]))
            order = draw(st.sampled_from(["big", "little"]))
            data[place : place + 4] = value.to_bytes(4, order)
        elif damage == "cut":
            del data[place:]
        elif damage == "double":
            data[place:place] = data[place : place + draw(st.integers(1, 200))]
        elif damage == "insert":
            data[place:place] = draw(st.binary(max_size=30))
        else:
            del data[place : place + draw(st.integers(1, 40))]
    return bytes(data)


def check_picture(checkpoint, data, scaled):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
        try:
            rows, (_, down, across) = picture_to_patches(
                data, checkpoint.profile.image, "image[0]", scaled=scaled
            )
        except InvalidInputError as error:
            check_error(error, "image[0]")
            return
    assert rows.shape == (down * across, 768)
    assert rows.dtype == np.uint8


@QUICK
@given(data=damaged_pictures(), scaled=st.booleans())
def test_damaged_pictures(checkpoint, data, scaled):
    check_picture(checkpoint, data, scaled)


@pytest.mark.slow
@LONGEST
@given(data=damaged_pictures(), scaled=st.booleans())
def test_many_damaged_pictures(checkpoint, data, scaled):
    check_picture(checkpoint, data, scaled)


NOT_PICTURES = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode))


def check_not_a_picture(checkpoint, data):
    for value in (data, b"data:image/png;base64," + data):
        with pytest.raises(InvalidInputError) as caught:
            picture_to_patches(value, checkpoint.profile.image, "image[0]")
        check_error(caught.value, "image[0]")


@QUICK
@given(NOT_PICTURES)
def test_data_that_is_not_a_picture(checkpoint, data):
    check_not_a_picture(checkpoint, data)


@pytest.mark.slow
@LONG
@given(NOT_PICTURES)
def test_much_data_that_is_not_a_picture(checkpoint, data):
    check_not_a_picture(checkpoint, data)


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
    """JSON text that looks like a filter, sometimes with changed characters."""
    text = json.dumps(draw(st.dictionaries(NAMES, JSON, max_size=4)))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.text(max_size=3)) + text[place + draw(st.integers(0, 3)) :]
    return text


DOCUMENTS = [{}, {"year": 2019, "a": {"b": "x"}}, {"year": "x", "a": [1]}, {"": None, "a": None}]


def check_filter(text):
    """An accepted filter must be a condition that SQLite can evaluate."""
    try:
        parsed = Filter.parse(text)
    except InvalidInputError as error:
        check_error(error, "filter")
        return
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for document in DOCUMENTS:
            rows = connection.execute(
                f"SELECT {parsed.sql} FROM (SELECT ? AS document)",
                (*parsed.parameters, json.dumps(document)),
            ).fetchall()
            assert len(rows) == 1 and rows[0][0] in (0, 1, None)


@QUICK
@given(filters())
def test_filters(text):
    check_filter(text)


@pytest.mark.slow
@LONGEST
@given(filters())
def test_many_filters(text):
    check_filter(text)


SPECIAL = ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>")
TEXTS = st.lists(st.sampled_from(SPECIAL) | st.text(max_size=20), max_size=5).map("".join)
PICTURE_TOKENS = st.lists(st.integers(1, 9), max_size=3)


def check_prompt(prompt, profile, text, instruction, pictures):
    """Text never becomes a special token, and every picture has its placeholder tokens."""
    try:
        ids = prompt.ids(text, pictures, instruction)
    except InvalidInputError as error:
        check_error(error, "")
        return
    tokens = profile.prompt.tokens
    assert (ids == tokens[IMAGE_PAD]).sum() == sum(pictures)
    assert (ids == tokens[VISION_START]).sum() == len(pictures)


@QUICK
@given(text=TEXTS, instruction=st.none() | TEXTS, pictures=PICTURE_TOKENS)
def test_prompts(checkpoint, prompt, text, instruction, pictures):
    check_prompt(prompt, checkpoint.profile, text, instruction, pictures)


@pytest.mark.slow
@LONG
@given(text=TEXTS, instruction=st.none() | TEXTS, pictures=PICTURE_TOKENS)
def test_many_prompts(checkpoint, prompt, text, instruction, pictures):
    check_prompt(prompt, checkpoint.profile, text, instruction, pictures)
