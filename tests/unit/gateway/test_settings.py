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


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PORT", "x", "'x' is not a whole number"),
        ("PORT", "8080.0", "'8080.0' is not a whole number"),
        ("PORT", "65536", "'65536' is not at most 65535"),
        ("IN_FLIGHT", "0", "'0' is not more than 0"),
        ("BODY_S", "long", "'long' is not a number"),
        ("MUTUAL", "perhaps", "'perhaps' is not true or false"),
        ("PORTS", "1", "no such setting; check its spelling, or unset it"),
    ],
)
def test_unusable_variable_is_refused_by_its_name(name, value, reason):
    with pytest.raises(InvalidInputError) as raised:
        GatewaySettings.from_env({f"LENSEMBLE_GATEWAY_{name}": value})
    assert str(raised.value) == f"LENSEMBLE_GATEWAY_{name}: {reason}"
