"""The gateway's settings and their environment variables."""

import pytest

from lensemble.gateway.settings import GatewaySettings
from lensemble_contract.errors import InvalidInputError

ENVIRONMENT = {
    "LENSEMBLE_GATEWAY_PORT": "9",
    "LENSEMBLE_GATEWAY_REMOTE_HOSTS": "A.example, b.example:8443",
    "LENSEMBLE_GATEWAY_CHAT_KEY": "secret",
    "LENSEMBLE_GATEWAY_ACCESS_LOG": "false",
    "LENSEMBLE_CHECKPOINT": "elsewhere",
}


def test_settings_are_read_from_variables():
    settings = GatewaySettings.from_env(ENVIRONMENT)
    assert settings.remote_hosts == ("a.example", "b.example:8443")
    assert not settings.access_log
    assert "secret" not in repr(settings)


def test_variables_of_settings_give_the_same_settings():
    settings = GatewaySettings.from_env(ENVIRONMENT)
    assert GatewaySettings.from_env(settings.to_env()) == settings


def test_argument_overrides_the_variable():
    assert GatewaySettings.from_env(ENVIRONMENT, port=7).port == 7


@pytest.mark.parametrize(("name", "value"), [("PORT", "x"), ("IN_FLIGHT", "0"), ("PORTS", "1")])
def test_unusable_variable_is_refused_by_its_name(name, value):
    with pytest.raises(InvalidInputError, match="LENSEMBLE_GATEWAY_"):
        GatewaySettings.from_env({f"LENSEMBLE_GATEWAY_{name}": value})
