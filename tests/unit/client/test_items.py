"""Items, and their conversion to rows of a request and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensemble_client import InvalidInputError, Item
from lensemble_contract import contract
from lensemble_contract.items import from_rows, to_rows
from tests.pictures import encode, textured

ITEMS = st.builds(
    Item,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.lists(st.binary(min_size=1), max_size=3).map(tuple),
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)


@given(st.lists(ITEMS, min_size=1, max_size=5))
def test_items_survive_the_conversion_to_rows_and_back(items):
    assert from_rows(to_rows(items)) == items


def test_unused_inputs_are_left_out():
    assert list(to_rows([Item("a"), Item("b")])) == ["text"]
    assert list(to_rows([Item(images=(b"1",))])) == ["image"]


def test_shorter_rows_are_padded_with_empty_bytes():
    rows = to_rows([Item("a", (b"1", b"2")), Item(None, (b"3",), "find")])
    assert rows["image"].tolist() == [[b"1", b"2"], [b"3", b""]]
    assert rows["text"].tolist() == [[b"a"], [b""]]
    assert rows["instruction"].tolist() == [[b""], [b"find"]]


def test_bad_rows_do_not_affect_their_neighbours():
    rows = {"text": np.array([[b"ok"], [b"\xff\xfe"], [b""]], np.object_)}
    good, not_utf8, empty = from_rows(rows)
    assert good == Item("ok")
    assert isinstance(not_utf8, InvalidInputError)
    assert str(not_utf8) == "text: not valid UTF-8 at byte 0"
    assert "empty" in str(empty)


def test_request_without_any_input_is_refused():
    (error,) = from_rows({"text": None, "image": None})
    assert isinstance(error, InvalidInputError)


def test_lone_surrogate_is_refused_by_the_server_side():
    (error,) = from_rows(to_rows([Item("a\ud800")]))
    assert isinstance(error, InvalidInputError)


def test_errors_name_the_limits():
    many = Item(images=(b"x",) * (contract.MAX_IMAGES_PER_ITEM + 1))
    (error,) = from_rows(to_rows([many]))
    assert str(error) == "image: 17 pictures in one item; at most 16"
    (error,) = from_rows(to_rows([Item("x" * (contract.MAX_TEXT_BYTES + 1))]))
    assert str(error).startswith("text: 1048577 bytes of text")


def test_pictures_may_be_bytes_paths_or_pillow_images(tmp_path):
    picture = textured(20, 10)
    path = tmp_path / "picture.png"
    path.write_bytes(encode(picture))
    item = Item.of(image=[path.read_bytes(), path, str(path), picture])
    assert len(set(item.images)) == 1


def test_item_needs_text_or_picture():
    with pytest.raises(InvalidInputError, match="the item is empty"):
        Item.of("", None)


def test_empty_picture_is_refused_before_it_becomes_padding(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InvalidInputError, match=r"image\[0\]: 0 bytes"):
        Item.of("a text", tmp_path / "empty.jpg")
    for bad in (Item("a", (b"x", b"")), Item()):
        with pytest.raises(InvalidInputError):
            to_rows([Item("ok"), bad])


def test_pillow_image_that_png_cannot_hold_is_sent_as_rgb():
    (data,) = Item.of(image=textured(20, 10).convert("CMYK")).images
    assert data.startswith(b"\x89PNG")


def test_error_names_the_unreadable_path():
    with pytest.raises(InvalidInputError, match=r"image\[1\]: cannot read 'no/such.jpg'"):
        Item.of(image=[b"x", "no/such.jpg"])
