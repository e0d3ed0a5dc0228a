"""docs/api.md against the gateway's schema, errors and limits."""

import ast
import re
from http import HTTPStatus

import pytest

from lensemble.gateway.app import Gateway
from lensemble.gateway.error_handlers import CODE_OF_STATUS
from lensemble.gateway.settings import GatewaySettings
from lensemble_contract import contract, errors
from lensemble_contract.errors import LensembleError
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text()
# (method, path) -> text of the section whose heading is `METHOD /path`.
SECTIONS = {
    (method, path): text
    for method, path, text in re.findall(
        r"^### `([A-Z]+) (/\S+)`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL
    )
}


@pytest.fixture(scope="module")
def openapi():
    return Gateway(GatewaySettings()).api.openapi()


@pytest.fixture(scope="module")
def routes(openapi):
    """(method, path) -> the route in OpenAPI's terms."""
    return {
        (method.upper(), path): route
        for path, methods in openapi["paths"].items()
        for method, route in methods.items()
    }


def section(heading):
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def table(heading):
    """The rows of the table in a section, each a list of cells."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def field_names(schema, openapi):
    """Names of all fields of a schema, those of nested objects included."""
    if isinstance(schema, list):
        return {name for part in schema for name in field_names(part, openapi)}
    if not isinstance(schema, dict):
        return set()
    if "$ref" in schema:
        return field_names(resolve(schema, openapi), openapi)
    names = set(schema.get("properties", {}))
    for key, value in schema.items():
        parts = value.values() if key == "properties" else [value]
        names |= {name for part in parts for name in field_names(part, openapi)}
    return names


def resolve(schema, openapi):
    name = schema.get("$ref", "").rpartition("/")[2]
    return openapi["components"]["schemas"].get(name, schema)


def test_every_route_has_a_section_and_a_row_in_the_list(routes):
    assert set(SECTIONS) == set(routes)
    listed = set(re.findall(r"^\| \[`([A-Z]+) (/\S+)`\]", PAGE, re.MULTILINE))
    assert listed == set(routes)


@pytest.mark.parametrize("route", SECTIONS, ids=" ".join)
def test_section_names_every_field_and_parameter(route, routes, openapi):
    text = SECTIONS[route]
    for content in routes[route].get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        for name in resolve(schema, openapi).get("properties", {}):
            assert f"`{name}`" in text, f"{name} needs a description, not only an example"
        for name in field_names(schema, openapi):
            assert re.search(rf"`{name}`|\"{name}\"", text + section("Items")), name
    for parameter in routes[route].get("parameters", []):
        assert re.search(rf"\b{parameter['name']}\b", text), parameter["name"]


@pytest.mark.parametrize("route", SECTIONS, ids=" ".join)
def test_section_has_a_command(route):
    method, path = route
    text = SECTIONS[route]
    assert re.search(rf"curl .*http://127\.0\.0\.1:8080{path.partition('{')[0]}", text)
    assert ("-X DELETE" in text) == (method == "DELETE")


def refusals():
    """Code and status of every `RefusedError(HTTPStatus.X, "code", ...)` in the gateway."""
    for path in (ROOT / "lensemble" / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RefusedError":
                status, code, *_ = node.args
                if isinstance(code, ast.Constant):
                    yield code.value, HTTPStatus[status.attr]


def test_table_of_errors_has_every_code_with_its_status():
    classes = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    expected = {cls.code: cls.http_status for cls in classes if cls is not LensembleError}
    expected |= dict(refusals())
    expected |= {code: status for status, code in CODE_OF_STATUS.items()}
    expected["bad_request"] = HTTPStatus.BAD_REQUEST
    assert {row[0]: int(row[1]) for row in table("Errors")} == expected
    assert len(expected) > 15


def test_limits_are_those_of_the_contract():
    limits = {row[0]: row[1] for row in table("Limits")}
    assert limits["pictures in an item"] == str(contract.MAX_IMAGES_PER_ITEM)
    pixels = f"{contract.MAX_IMAGE_PIXELS // 10**6} million pixels"
    assert limits["one picture"] == f"{contract.MAX_IMAGE_BYTES // 2**20} MiB, {pixels}"
    assert limits["one text"] == f"{contract.MAX_TEXT_BYTES // 2**20} MiB"
    for text in (f"1 to {contract.MAX_TOP_K}, {contract.DEFAULT_TOP_K} if", "up to 256"):
        assert text in SECTIONS["POST", "/v1/search"]


def test_links_and_paths_exist():
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\s-]", "", text.lower()).replace(" ", "-") for text in headings}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (ROOT / "docs" / target.partition("#")[0]).is_file(), target
    paths = re.findall(r"(?:examples|demo)/[\w/.]*\w", PAGE)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path
