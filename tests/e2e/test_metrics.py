"""What Triton's metrics say of our models, after calls that can be counted."""

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


def said(server):
    """Metric with its labels, without the model's -> value."""
    with Client(server.grpc_url) as client:
        assert all(client.status().models.values())  # pings bring metrics up to date
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in re.findall(r"^(lensemble_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        kept = [one for one in labels.split(",") if not one.startswith("triton_model")]
        found[",".join([name, *kept])] = float(value)
    return found


def test_work_of_the_encoder_and_size_of_the_index(server):
    before = said(server)
    with Client(server.grpc_url) as client:
        client.ingest("a", "a red car", document={})
        client.ingest("b", "a blue car", encode(textured(64, 64)), document={})
        client.search("car", top_k=2)
    after = said(server)

    def more(name):
        return after[name] - before.get(name, 0)

    # Pings are passes of one item, too.
    items = more("lensemble_pass_items_total")
    assert items >= 3
    assert more("lensemble_passes_total") == items
    assert more("lensemble_pass_patches_total") == 4 * 4
    assert more("lensemble_pass_tokens_total") > 3 * 5
    assert 0 < more("lensemble_pass_budget_total") < 1
    for tower in ("vision", "text"):
        assert more(f'lensemble_tower_seconds_total,tower="{tower}"') > 0
    assert after["lensemble_index_items"] == 2
    assert after["lensemble_index_delta"] == 2
    assert after["lensemble_index_recall"] == 1
    assert after["lensemble_index_sequence"] == 2


def test_errors_are_counted_by_what_was_wrong(server):
    with Client(server.grpc_url) as client:
        for image in (b"hello", png_header(30_000, 30_000), png_header(30_000, 30_000)):
            with pytest.raises(InvalidInputError):
                client.embed(image=image)
        with pytest.raises(InvalidInputError):
            client.embed("x", dimensions=7)
    found = said(server)
    errors = {
        key: value for key, value in found.items() if key.startswith("lensemble_errors_total")
    }
    # Those that alerts ask for are there from the start, at 0.
    assert any(value == 0 and 'code="internal"' in key for key, value in errors.items())
    by = {tuple(re.findall(r'="(\w*)"', key)): value for key, value in errors.items() if value}
    assert sorted(by.items()) == [
        (("invalid_input", "dimensions", ""), 1),
        (("invalid_input", "image", "not_a_picture"), 1),
        (("invalid_input", "image", "too_many_pixels"), 2),
    ]
