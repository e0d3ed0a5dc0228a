"""Triton's metrics of our models after a known number of calls."""

import re
import urllib.request

import pytest

from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, InvalidInputError
from tests.pictures import encode, png_header, textured

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    settings = Settings(checkpoint=checkpoint, index=folder, dtype="fp32", writes="on")
    with TritonServer(settings) as running:
        yield running


def read_metrics(server):
    """The values by name and labels; the label with the model's name is left out."""
    with Client(server.grpc_url) as client:
        assert all(client.status().models.values())  # pings update the metrics
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    values = {}
    for name, labels, value in re.findall(r"^(lensemble_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        others = [each for each in labels.split(",") if not each.startswith("triton_model")]
        values[",".join([name, *others])] = float(value)
    return values


def test_encoder_passes_and_index_size_are_measured(server):
    before = read_metrics(server)
    with Client(server.grpc_url) as client:
        client.ingest("a", "a red car", document={})
        client.ingest("b", "a blue car", encode(textured(64, 64)), document={})
        client.search("car", top_k=2)
    after = read_metrics(server)

    def increase(name):
        return after[name] - before.get(name, 0)

    # Each ping is also a pass of one item.
    items = increase("lensemble_pass_items_total")
    assert items >= 3
    assert increase("lensemble_passes_total") == items
    assert increase("lensemble_pass_patches_total") == 4 * 4
    assert increase("lensemble_pass_tokens_total") > 3 * 5
    assert 0 < increase("lensemble_pass_budget_total") < 1
    for tower in ("vision", "text"):
        assert increase(f'lensemble_tower_seconds_total,tower="{tower}"') > 0
    assert after["lensemble_index_items"] == 2
    assert after["lensemble_index_delta"] == 2
    assert after["lensemble_index_recall"] == 1
    assert after["lensemble_index_sequence"] == 2


def test_errors_are_counted_by_code_input_and_reason(server):
    with Client(server.grpc_url) as client:
        for image in (b"hello", png_header(30_000, 30_000), png_header(30_000, 30_000)):
            with pytest.raises(InvalidInputError):
                client.embed(image=image)
        with pytest.raises(InvalidInputError):
            client.embed("x", dimensions=7)
    metrics = read_metrics(server)
    errors = {
        key: value for key, value in metrics.items() if key.startswith("lensemble_errors_total")
    }
    # The errors that alerts use exist from the start, with the value 0.
    assert any(value == 0 and 'code="internal"' in key for key, value in errors.items())
    by_labels = {
        tuple(re.findall(r'="(\w*)"', key)): value for key, value in errors.items() if value
    }
    assert sorted(by_labels.items()) == [
        (("invalid_input", "dimensions", ""), 1),
        (("invalid_input", "image", "not_a_picture"), 1),
        (("invalid_input", "image", "too_many_pixels"), 2),
    ]
