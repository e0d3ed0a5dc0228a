"""docs/settings.md lists what the settings classes define."""

import importlib.util

import pytest

from lensemble.gateway.settings import GatewaySettings
from lensemble.settings import Settings
from lensemble_cli import options
from tests.paths import ROOT

PAGE = ROOT / "docs" / "settings.md"


def generator():
    spec = importlib.util.spec_from_file_location(
        "generate_settings", ROOT / "docs" / "generate_settings.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == generator().page(), "run `make docs`"


@pytest.mark.parametrize("settings", [Settings, GatewaySettings])
def test_every_setting_is_on_the_page_with_its_default(settings):
    rows = {
        line.split(" | ")[0].strip("| `"): line
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `")
    }
    for name, field in settings.model_fields.items():
        row = rows[settings.variable(name)]
        if isinstance(field.default, str | int | float) and not isinstance(field.default, bool):
            assert f"| `{field.default}` |" in row
        assert field.description in row


def test_the_variables_of_the_command_line_are_on_the_page():
    for variable in (options.URL_VARIABLE, options.TLS_VARIABLE):
        assert f"| `{variable}` |" in PAGE.read_text()
