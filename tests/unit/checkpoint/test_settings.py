"""The settings of the server, and what they share with those of the gateway."""

from pathlib import Path

import pytest

from lensemble.gateway.settings import GatewaySettings
from lensemble.settings import Settings
from lensemble.settings_base import describe_settings
from lensemble_client import InvalidInputError

HYBRID = {"LENSEMBLE_SENTENCE": "m", "LENSEMBLE_CHAT_MODEL": "n"}


def test_settings_come_back_from_the_environment():
    settings = Settings(checkpoint=Path("/c"), index=Path("/i"), dtype="bf16", batch_tokens=7)
    assert Settings.from_env(settings.to_env()) == settings


def test_unset_variables_keep_their_defaults():
    found = Settings.from_env({"LENSEMBLE_CHECKPOINT": "/c", "LENSEMBLE_INDEX": " "})
    assert found == Settings(checkpoint=Path("/c"))
    assert found.cpu_threads >= 1


def test_empty_option_stands_for_the_default():
    environ = {"LENSEMBLE_CHECKPOINT": "/c", "LENSEMBLE_INDEX": "/i"}
    assert Settings.from_env(environ, index="").index is None


def test_options_win_over_variables_unless_they_are_none():
    environ = {"LENSEMBLE_CHECKPOINT": "/c", "LENSEMBLE_DTYPE": "fp32", "LENSEMBLE_THREADS": "3"}
    found = Settings.from_env(environ, checkpoint=Path("/given"), dtype=None, threads=0)
    assert found == Settings(checkpoint=Path("/given"), dtype="fp32", threads=0)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("THREADS", "many", "'many' is not a whole number"),
        ("THREADS", "5.0", "'5.0' is not a whole number"),
        ("ENCODER_INSTANCES", "1e2", "'1e2' is not a whole number"),
        ("CACHE_MIB", "x" * 500, f"'{'x' * 40}...' is not a whole number"),
        ("CACHE_MIB", "9" * 5000, f"'{'9' * 40}...' is not a whole number"),
        ("DTYPE", "fp8", "'fp8' is not auto, fp32 or bf16"),
        ("JPEG", "half", "'half' is not full or scaled"),
        ("ENCODER_INSTANCES", "0", "'0' is not more than 0"),
        ("PREPROCESS_INSTANCES", "-2", "'-2' is not at least 0"),
        ("CACHE_MIB", "-1", "'-1' is not at least 0"),
        ("BATCH_TOKENS", "-1", "'-1' is not at least 0"),
        ("BATCH_TOKENS", "1000000000", "'1000000000' is not at most 1048576"),
        ("BATCH_PATCHES", "1048577", "'1048577' is not at most 1048576"),
        ("ENCODER_INSTANCES", "10000", "'10000' is not at most 256"),
        ("PREPROCESS_INSTANCES", "10000", "'10000' is not at most 256"),
        ("THREADS", "100000", "'100000' is not at most 1024"),
        ("CHAT_TIMEOUT_S", "soon", "'soon' is not a number"),
        ("CHAT_TIMEOUT_S", "nan", "'nan' is not more than 0"),
        ("MAX_WAIT_S", "nan", "'nan' is not at least 0"),
        ("CHAT_CONCURRENCY", "0", "'0' is not more than 0"),
    ],
    ids=lambda text: text[:40],
)
def test_bad_value_names_the_variable(name, value, reason):
    environ = {"LENSEMBLE_CHECKPOINT": "/c", f"LENSEMBLE_{name}": value}
    with pytest.raises(InvalidInputError) as raised:
        Settings.from_env(environ)
    assert str(raised.value) == f"LENSEMBLE_{name}: {reason}"


def test_missing_checkpoint_names_variable_option_and_remedy():
    with pytest.raises(InvalidInputError) as raised:
        Settings.from_env({})
    assert str(raised.value) == (
        "LENSEMBLE_CHECKPOINT: not set; set it to the folder of a serving checkpoint, or give "
        "--checkpoint"
    )


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"LENSEMBLE_SENTENCE": "m"}, "LENSEMBLE_CHAT_URL: not set; the embedder `hybrid`"),
        (
            {"LENSEMBLE_SENTENCE": "m", "LENSEMBLE_CHAT_URL": "http://h/v1"},
            "LENSEMBLE_CHAT_MODEL: not set",
        ),
        (
            {**HYBRID, "LENSEMBLE_CHAT_URL": "http://me:secret@h/v1"},
            r"LENSEMBLE_CHAT_URL: not a usable URL(?!.*secret)",
        ),
    ],
)
def test_embedder_hybrid_needs_a_chat_server(environ, reason):
    with pytest.raises(InvalidInputError, match=reason):
        Settings.from_env({"LENSEMBLE_CHECKPOINT": "/c", **environ})


def test_embedders_are_those_that_have_a_model():
    plain = Settings(checkpoint=Path("/c"))
    assert plain.embedders == ()
    environ = {**HYBRID, "LENSEMBLE_CHAT_URL": "http://h/v1", "LENSEMBLE_CHAT_TIMEOUT_S": "2.5"}
    found = Settings.from_env({"LENSEMBLE_CHECKPOINT": "/c", **environ}, clip="openai/clip")
    assert found.embedders == ("hybrid", "clip")
    assert found.chat_timeout_s == 2.5
    assert Settings.from_env(found.to_env()) == found


def test_settings_are_built_from_their_arguments_alone(monkeypatch):
    monkeypatch.setenv("LENSEMBLE_DTYPE", "bf16")
    assert Settings(checkpoint=Path("/c")).dtype == "auto"
    assert Settings.from_env(checkpoint=Path("/c")).dtype == "bf16"


def test_changed_copy_is_checked():
    settings = Settings(checkpoint=Path("/c"), threads=3)
    assert settings.with_changes(threads=2) == Settings(checkpoint=Path("/c"), threads=2)
    assert settings.threads == 3
    with pytest.raises(InvalidInputError, match="LENSEMBLE_THREADS"):
        settings.with_changes(threads=-1)


def test_secrets_are_sent_on_but_not_shown():
    settings = GatewaySettings(chat_key="hidden")
    assert "hidden" not in repr(settings)
    assert settings.to_env()["LENSEMBLE_GATEWAY_CHAT_KEY"] == "hidden"
    with pytest.raises(InvalidInputError, match="LENSEMBLE_GATEWAY_CHAT_KEY") as raised:
        GatewaySettings(chat_key=["hidden"])
    assert str(raised.value).startswith("LENSEMBLE_GATEWAY_CHAT_KEY: the value is not usable")
    assert "hidden" not in str(raised.value)


def test_gateway_refuses_unknown_variables():
    assert GatewaySettings.from_env({"LENSEMBLE_GATEWAY_PORT": "0", "LENSEMBLE_URL": "u"}).port == 0
    with pytest.raises(InvalidInputError, match="LENSEMBLE_GATEWAY_PROT: no such setting"):
        GatewaySettings.from_env({"LENSEMBLE_GATEWAY_PROT": "1"})


def test_gateway_settings_come_back_from_the_environment():
    settings = GatewaySettings(remote_hosts=("a.org", "b.org"), mutual=True, chat_key="k")
    assert GatewaySettings.from_env(settings.to_env()) == settings


@pytest.mark.parametrize("settings", [Settings, GatewaySettings])
def test_every_setting_is_described(settings):
    required = {name for name, field in settings.model_fields.items() if field.is_required()}
    assert set(settings.remedies) == required
    described = {each.variable: each for each in describe_settings(settings)}
    assert set(described) == {settings.variable(name) for name in settings.model_fields}
    for each in described.values():
        assert each.type
        assert each.description.endswith("."), each
    if settings is Settings:
        assert described["LENSEMBLE_DTYPE"].type == "auto, fp32 or bf16"
        assert described["LENSEMBLE_COMPACT_ROWS"][1:3] == ("whole number", "20000")
        assert described["LENSEMBLE_CHECKPOINT"].default == ""
