"""Compares CLIP's vectors with Transformers' model and processor on the same weights."""

import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from lensemble.settings import Settings
from lensemble.stages.clip import ClipStage
from lensemble.stages.clip_preprocess import ClipPreprocessStage
from lensemble_client import InternalError, InvalidInputError, Item
from lensemble_contract.items import to_rows
from tests.clip_checkpoint import DIMENSION, PATCH, SIDE
from tests.parity.test_reference import cosine
from tests.pictures import encode, textured

TEXTS = ("a", "A red hat on a table, ÄÖÜ 🙂", "the cat sat " * 12)


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _transparent():
    picture = textured(50, 60).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((50, 60)))
    return picture


PICTURES = {
    "wide": encode(textured(300, 90)),
    "tall": encode(textured(70, 200, seed=1), "JPEG", quality=90),
    "small": encode(textured(9, 12, seed=2)),
    "exact": encode(textured(SIDE, SIDE, seed=3)),
    "grey": encode(textured(80, 90, seed=4).convert("L")),
    "palette": encode(textured(80, 90, seed=5).convert("P"), "GIF"),
    "cmyk": encode(textured(90, 90, seed=6).convert("CMYK"), "JPEG"),
    "sixteen bits": encode(Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80) * 10)),
    "transparent": encode(_transparent()),
    **{f"rotated {n}": encode(textured(90, 60), "JPEG", exif=_exif(n)) for n in range(2, 9)},
    "rotated TIFF": encode(textured(90, 60), "TIFF", exif=_exif(6)),
}


class Reference:
    """Transformers' CLIP, which encodes one text or picture at a time."""

    def __init__(self, folder):
        self.model = CLIPModel.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        # OpenAI's own code resizes with Pillow; `fast` resizes with torchvision.
        self.processor = CLIPProcessor(CLIPImageProcessorPil.from_pretrained(folder), tokenizer)
        self.fast = CLIPProcessor.from_pretrained(folder)

    def text(self, text):
        inputs = self.processor(text=[text], return_tensors="pt", padding=True)
        with torch.inference_mode():
            return _unit(self.model.get_text_features(**inputs).pooler_output)

    def picture(self, data, processor=None):
        rgb = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        if rgb.mode == "I;16":
            rgb = Image.fromarray((np.asarray(rgb) >> 8).astype(np.uint8))
        if rgb.mode == "RGBA":
            rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb)
        inputs = (processor or self.processor)(images=rgb.convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            return _unit(self.model.get_image_features(**inputs).pooler_output)


def _unit(pooled):
    return torch.nn.functional.normalize(pooled, dim=-1)[0].numpy()


@pytest.fixture(scope="module")
def reference(clip_checkpoint):
    return Reference(clip_checkpoint)


@pytest.fixture(scope="module")
def settings(checkpoint, clip_checkpoint):
    return Settings(checkpoint=checkpoint, clip=str(clip_checkpoint), dtype="fp32")


@pytest.fixture(scope="module")
def preprocess(settings):
    return ClipPreprocessStage(settings, "cpu")


@pytest.fixture(scope="module")
def clip(settings):
    return ClipStage(settings, "cpu")


@pytest.fixture
def embed(preprocess, clip):
    """Embeds the items of one request, through the tensors between the two Triton models."""

    def run(*items):
        tensors = preprocess.write(preprocess.run(preprocess.read(to_rows(items), {})))
        return clip.write(clip.run(clip.read(tensors, {})))["embedding"]

    return run


@pytest.mark.parametrize("text", TEXTS, ids=len)
def test_text_equals_transformers(embed, reference, text):
    (vector,) = embed(Item(text))
    assert vector.shape == (DIMENSION,)
    assert cosine(vector, reference.text(text)) >= 0.99999


@pytest.mark.parametrize("name", PICTURES)
def test_picture_equals_transformers(embed, reference, name):
    (vector,) = embed(Item(images=(PICTURES[name],)))
    assert cosine(vector, reference.picture(PICTURES[name])) >= 0.99999


def test_torchvisions_resizing_gives_similar_vectors(embed, reference):
    """Transformers' default resizes with torchvision; it differs by at most 2 of 255 levels."""
    for data in PICTURES.values():
        (vector,) = embed(Item(images=(data,)))
        assert cosine(vector, reference.picture(data, reference.fast)) >= 0.999


def test_different_items_have_different_vectors(embed):
    vectors = embed(*(Item(images=(data,)) for data in list(PICTURES.values())[:6]), Item("a hat"))
    assert np.max(vectors @ vectors.T - np.eye(7)) < 0.99


def test_batches_do_not_change_vectors_and_mixed_items_get_the_mean(embed, reference):
    wide, black = PICTURES["wide"], encode(Image.new("RGB", (70, 70)))
    items = [Item(TEXTS[2]), Item(images=(black,)), Item("a", (wide, black)), Item(TEXTS[0])]
    together = embed(*items)
    for item, vector in zip(items, together, strict=True):
        np.testing.assert_allclose(vector, embed(item)[0], atol=1e-5)
    parts = [reference.text("a"), reference.picture(wide), reference.picture(black)]
    mean = np.mean(parts, axis=0)
    assert cosine(together[2], mean / np.linalg.norm(mean)) >= 0.99999


def test_small_budgets_do_not_change_vectors(settings, preprocess, embed, checkpoint):
    small = ClipStage(settings.with_changes(batch_tokens=12, batch_patches=20), "cpu")
    items = [Item(text) for text in TEXTS] + [Item("a", tuple(PICTURES.values())[:5])]
    vectors = small.run(preprocess.run(items))
    np.testing.assert_allclose(np.stack(vectors), embed(*items), atol=1e-5)


def test_items_share_one_pass_per_tower_and_a_bad_one_fails_alone(clip, preprocess, monkeypatch):
    calls = []
    features = preprocess.run([Item("good"), Item("bad"), Item("a", (PICTURES["wide"],) * 2)])
    encode_texts = clip._encoder._encode_texts

    def recorded(texts):
        calls.append(len(texts))
        if any(np.array_equal(text, features[1].input_ids) for text in texts):
            raise ValueError("bad")
        return encode_texts(texts)

    monkeypatch.setattr(clip._encoder, "_encode_texts", recorded)
    good, bad, mixed = clip.run(features)
    assert len(good) == len(mixed) == DIMENSION
    assert isinstance(bad, InternalError)
    calls.clear()
    clip.run([features[0], features[2]])
    assert calls == [2]


def test_tokens_count_text_and_patches(preprocess):
    rows = preprocess.write(preprocess.run([Item("a", (PICTURES["wide"],) * 2), Item("a")]))
    assert rows["tokens"].tolist() == [[3 + 2 * ((SIDE // PATCH) ** 2 + 1)], [3]]
    assert rows["pixels"].shape == (2, 2, SIDE, SIDE, 3)
    assert rows["pictures"].tolist() == [[2], [0]]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("word " * 400), r"text: \d+ tokens; the embedder 'clip' takes at most 77"),
        (Item("a", instruction="find"), "instruction: the embedder 'clip' takes none"),
        (Item(images=(b"x",)), r"image\[0\]: not a picture"),
    ],
)
def test_items_that_clip_cannot_take_are_refused(preprocess, item, message):
    good, bad = preprocess.run([Item("a"), item])
    assert len(good.input_ids) == 3
    with pytest.raises(InvalidInputError, match=message):
        raise bad


def test_other_dimensions_and_invalid_tensors_are_refused(clip, preprocess):
    rows = preprocess.write(preprocess.run([Item("a", (PICTURES["wide"],))]))
    assert clip.read(rows, {"dimensions": DIMENSION})
    with pytest.raises(InvalidInputError, match=f"dimensions: 16; .* gives {DIMENSION} only"):
        clip.read(rows, {"dimensions": 16})
    for name, value in (
        ("pictures", [[2]]),
        ("input_ids", [[5000]]),
        ("input_ids", [[-2]]),
        ("pixels", np.zeros((1, 1, 8, 8, 3), np.uint8)),
    ):
        (error,) = clip.read({**rows, name: np.asarray(value)}, {})
        assert isinstance(error, InvalidInputError)
        assert error.field == name


def test_profile_depends_on_the_weights(clip, settings, clip_checkpoint, tmp_path):
    assert clip.info["profile"].startswith("sha256:")
    other = tmp_path / "other"
    shutil.copytree(clip_checkpoint, other)
    moved = settings.with_changes(clip=str(other))
    assert ClipStage(moved, "cpu").info["profile"] == clip.info["profile"]
    model = CLIPModel.from_pretrained(other)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1
    model.save_pretrained(other)
    assert ClipStage(moved, "cpu").info["profile"] != clip.info["profile"]


def test_checkpoint_of_another_model_is_refused(settings, minilm):
    other = settings.with_changes(clip=str(minilm))
    for stage in (ClipStage, ClipPreprocessStage):
        with pytest.raises(InvalidInputError, match="a model of type 'bert'; expected 'clip'"):
            stage(other, "cpu")


def test_torchvision_is_not_needed(clip_checkpoint):
    code = """if True:
        import importlib.util, sys
        from pathlib import Path
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: (
            None if name == "torchvision" else real(name, package)
        )
        class Hidden:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "torchvision":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Hidden())
        from lensemble.embedders.clip_preprocessor import ClipPreprocessor
        from lensemble_client import Item
        features = ClipPreprocessor(Path(sys.argv[1]))(Item("a", (Path(sys.argv[2]).read_bytes(),)))
        print(features.pixels.shape, "torchvision" in sys.modules)
    """
    picture = clip_checkpoint / "picture.png"
    picture.write_bytes(PICTURES["wide"])
    process = subprocess.run(
        [sys.executable, "-c", code, clip_checkpoint, picture], capture_output=True, text=True
    )
    picture.unlink()
    assert process.stdout.strip() == f"(1, {SIDE}, {SIDE}, 3) False", process.stderr
