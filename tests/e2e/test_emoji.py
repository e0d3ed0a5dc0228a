"""Measures the published figures again, with the shipped checkpoint and pictures."""

import pytest

from demo.training.model_card import model_card, read_facts
from lensemble.checkpoint import Checkpoint
from lensemble.operations.tritonserver import TritonServer
from lensemble.pipeline import Pipeline
from lensemble.settings import Settings
from lensemble_cli.main import main
from lensemble_client import Client, Item
from lensemble_evaluation.dataset import load_dataset
from lensemble_evaluation.evaluate import evaluate
from lensemble_evaluation.result_files import load_evaluation
from lensemble_export.index_from_corpus import build_index
from tests.conftest import EMBEDDING
from tests.paths import CHECKPOINT, DATASET, ROOT
from tests.reference import Reference

pytestmark = pytest.mark.e2e
TOLERANCE = 0.01


@pytest.fixture(scope="module")
def published():
    return {
        split: load_evaluation(CHECKPOINT / f"evaluation-{split}.json")
        for split in ("held_out", "trained", "all")
    }


@pytest.fixture(scope="module")
def emoji_server(tmp_path_factory):
    index = tmp_path_factory.mktemp("emoji") / "index"
    built = build_index(DATASET, index, Settings(checkpoint=CHECKPOINT, dtype="fp32"))
    assert built.count > 3700
    with TritonServer(Settings(checkpoint=CHECKPOINT, index=index, dtype="fp32")) as running:
        yield running


def test_checkpoint_is_complete_and_small():
    Checkpoint.open(CHECKPOINT, full=True)
    assert sum(path.stat().st_size for path in CHECKPOINT.rglob("*")) <= 16 * 2**20


@pytest.mark.parametrize("item", ["text", "picture", "both"])
def test_checkpoint_gives_the_references_vectors(item):
    picture = DATASET / "images" / "1f355.webp"
    query = {
        "text": Item.of("corazón rojo"),
        "picture": Item.of(image=picture),
        "both": Item.of("the same, but green", picture),
    }[item]
    reference = Reference.load(CHECKPOINT, EMBEDDING)
    reference.min_pixels, reference.max_pixels = 4096, 16384
    (vector,) = Pipeline(Settings(checkpoint=CHECKPOINT, dtype="fp32")).embed([query])
    assert float(vector @ reference.embed(query)) >= 0.99999


def test_held_out_figures_are_reproduced(emoji_server, published):
    """The whole split: every task and language, at the shortest and the full length."""
    with Client(emoji_server.grpc_url) as client:
        evaluation = evaluate(client, load_dataset(DATASET, "held_out"), dimensions=[32, 192])
    assert len(evaluation.rows) >= 2 * (4 + 6 + 2)
    for row in evaluation.rows:
        expected = published["held_out"].row(row.task, row.language, row.dimensions)
        assert row.queries == expected.queries
        assert row.metrics == pytest.approx(expected.metrics, abs=TOLERANCE), row


def test_search_finds_what_exact_ranking_finds(emoji_server, published, tmp_path, capfd):
    """All pictures through the served index, with the command line; the index is exact."""
    arguments = ["eval", str(DATASET), "--split", "all", "--through", "search"]
    arguments += ["--url", emoji_server.grpc_url, "--json", str(tmp_path / "all.json")]
    arguments += ["--baseline", str(CHECKPOINT / "evaluation-all.json")]
    assert main([*arguments, "--plots", str(tmp_path / "plots")]) == 0
    evaluation = load_evaluation(tmp_path / "all.json")
    for row in evaluation.rows:
        expected = published["all"].row(row.task, row.language)
        for name in ("recall@1", "recall@10", "ndcg@10"):
            assert row.metrics[name] == pytest.approx(expected.metrics[name], abs=TOLERANCE), row
    out = capfd.readouterr().out
    assert "all-by-language.png" in out
    assert "0.000)" in out, "the table compares with the baseline"


def test_command_of_the_readme_prints_the_table(emoji_server, capfd):
    readme = (ROOT / "README.md").read_text()
    (line,) = [line for line in readme.splitlines() if line.startswith("lensemble eval ")]
    _, command, dataset, *options = line.split()
    options += ["--url", emoji_server.http_url]
    assert main([command, str(ROOT / dataset), *options]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert sum(row[:3] == ["text", "to", "picture"] and row[4:5] == ["64"] for row in rows) == 7


def test_model_card_has_the_published_figures(published):
    profile = Checkpoint.open(CHECKPOINT).profile
    order = [published[split] for split in ("all", "held_out", "trained")]
    assert (CHECKPOINT / "README.md").read_text() == model_card(
        profile, read_facts(CHECKPOINT), order
    )


def test_names_that_were_trained_on_find_their_pictures(published):
    trained = published["trained"]
    for language in ("en", "es"):
        assert trained.row("text to picture", language).metrics["recall@10"] >= 0.95


def test_picture_finds_its_variants_under_the_instruction(published):
    """For concepts that were not trained on; without the instruction a picture finds itself."""
    metrics = published["held_out"].row("picture to variants").metrics
    assert metrics["recall_cap@10"] >= 0.9
    assert published["held_out"].row("picture to picture").metrics["recall@10"] >= 0.9
