"""docs/api.md against the gateway's own schema, settings and errors."""

import ast
import re
from http import HTTPStatus

import pytest

from lensemble.gateway import error_handlers
from lensemble.gateway.app import Gateway
from lensemble.gateway.settings import GatewaySettings
from lensemble_contract import contract, errors
from lensemble_contract.errors import LensembleError
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text()
SCHEMA = Gateway(GatewaySettings()).api.openapi()
ROUTES = {
    (method.upper(), path): said
    for path, methods in SCHEMA["paths"].items()
    for method, said in methods.items()
}
SECTIONS = {
    (method, path): text
    for method, path, text in re.findall(
        r"^### `([A-Z]+) (/\S+)`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL
    )
}


def rows(heading):
    """The cells of the table in a section."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def fields(schema):
    """Names of the fields of a schema, those inside its parts included."""
    if isinstance(schema, list):
        return {name for one in schema for name in fields(one)}
    if not isinstance(schema, dict):
        return set()
    if "$ref" in schema:
        return fields(SCHEMA["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    found = set(schema.get("properties", {}))
    for key, value in schema.items():
        parts = value.values() if key == "properties" else [value]
        found |= {name for part in parts for name in fields(part)}
    return found


def test_every_route_has_its_section_and_its_row_in_the_list():
    assert set(SECTIONS) == set(ROUTES)
    listed = set(re.findall(r"^\| \[`([A-Z]+) (/\S+)`\]", PAGE, re.MULTILINE))
    assert listed == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_every_field_is_named(route):
    body = ROUTES[route].get("requestBody", {}).get("content", {})
    nested = SECTIONS[route] + PAGE.split("\n## Items\n")[1].split("\n## ")[0]
    for content in body.values():
        schema = content["schema"]
        top = SCHEMA["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
        for name in top.get("properties", {}):  # more than an example's `"name": ...`
            assert f"`{name}`" in SECTIONS[route], name
        for name in fields(schema):
            assert re.search(rf"`{name}`|\"{name}\"", nested), name
    for parameter in ROUTES[route].get("parameters", []):
        assert re.search(rf"\b{parameter['name']}\b", SECTIONS[route]), parameter["name"]


def test_every_route_has_a_command():
    for (method, path), text in SECTIONS.items():
        assert re.search(rf"curl .*http://127\.0\.0\.1:8080{path.partition('{')[0]}", text), path
        assert ("-X DELETE" in text) == (method == "DELETE")


def refusals():
    """Code -> status of every `RefusedError(HTTPStatus.X, "code", ...)` in the gateway."""
    for path in (ROOT / "lensemble" / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RefusedError":
                status, code, *_ = node.args
                if isinstance(code, ast.Constant):
                    yield code.value, HTTPStatus[status.attr]


def test_every_error_code_is_in_the_table_with_its_status():
    raised = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    expected = {cls.code: cls.http_status for cls in raised if cls is not LensembleError}
    expected |= dict(refusals())
    expected |= {code: status for status, code in error_handlers.CODE_OF_STATUS.items()}
    expected["bad_request"] = HTTPStatus.BAD_REQUEST
    assert {row[0]: int(row[1]) for row in rows("Errors")} == expected
    assert len(expected) > 15


def test_limits_are_the_contracts():
    said = {row[0]: row[1] for row in rows("Limits")}
    assert said["pictures in an item"] == str(contract.MAX_IMAGES_PER_ITEM)
    pixels = f"{contract.MAX_IMAGE_PIXELS // 10**6} million pixels"
    assert said["one picture"] == f"{contract.MAX_IMAGE_BYTES // 2**20} MiB, {pixels}"
    assert said["one text"] == f"{contract.MAX_TEXT_BYTES // 2**20} MiB"
    for text in (f"1 to {contract.MAX_TOP_K}, {contract.DEFAULT_TOP_K} if", "up to 256"):
        assert text in SECTIONS["POST", "/v1/search"]


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\s-]", "", one.lower()).replace(" ", "-") for one in headings}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (ROOT / "docs" / target.partition("#")[0]).is_file(), target
    for path in re.findall(r"(?:examples|datasets|checkpoints)/[\w/.]*\w", PAGE):
        assert (ROOT / path).exists(), path
