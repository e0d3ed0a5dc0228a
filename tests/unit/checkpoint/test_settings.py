from pathlib import Path

import pytest

from lensemble.settings import Settings
from lensemble_client import InvalidInputError

HYBRID = {"LENSEMBLE_SENTENCE": "m", "LENSEMBLE_CHAT_MODEL": "n"}


def test_settings_come_back_from_the_environment():
    settings = Settings(checkpoint=Path("/c"), index=Path("/i"), dtype="bf16", batch_tokens=7)
    assert Settings.from_env(settings.to_env()) == settings


def test_unset_variables_keep_their_defaults():
    found = Settings.from_env({"LENSEMBLE_CHECKPOINT": "/c", "LENSEMBLE_INDEX": " "})
    assert found == Settings(checkpoint=Path("/c"))
    assert found.cpu_threads >= 1


def test_options_stand_above_variables_and_none_leaves_them():
    environ = {"LENSEMBLE_CHECKPOINT": "/c", "LENSEMBLE_DTYPE": "fp32", "LENSEMBLE_THREADS": "3"}
    found = Settings.from_env(environ, checkpoint=Path("/given"), dtype=None, threads=0)
    assert found == Settings(checkpoint=Path("/given"), dtype="fp32", threads=0)


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "LENSEMBLE_CHECKPOINT: not set"),
        ({"LENSEMBLE_THREADS": "many"}, "LENSEMBLE_THREADS: 'many' is not a whole number"),
        ({"LENSEMBLE_DTYPE": "fp8"}, "LENSEMBLE_DTYPE: 'fp8' is not one of auto, fp32, bf16"),
        ({"LENSEMBLE_JPEG": "half"}, "LENSEMBLE_JPEG: 'half' is not one of full, scaled"),
        ({"LENSEMBLE_ENCODER_INSTANCES": "0"}, "_ENCODER_INSTANCES: 0; expected more than 0"),
        ({"LENSEMBLE_PREPROCESS_INSTANCES": "-2"}, "_PREPROCESS_INSTANCES: -2 is negative"),
        ({"LENSEMBLE_CACHE_MIB": "-1"}, "LENSEMBLE_CACHE_MIB: -1 is negative"),
        ({"LENSEMBLE_BATCH_TOKENS": "-1"}, "LENSEMBLE_BATCH_TOKENS: -1 is negative"),
        ({"LENSEMBLE_CHAT_TIMEOUT_S": "soon"}, "LENSEMBLE_CHAT_TIMEOUT_S: 'soon' is not a number"),
        ({"LENSEMBLE_CHAT_TIMEOUT_S": "nan"}, "LENSEMBLE_CHAT_TIMEOUT_S: nan; expected more"),
        ({"LENSEMBLE_CHAT_CONCURRENCY": "0"}, "LENSEMBLE_CHAT_CONCURRENCY: 0; expected more than"),
        ({"LENSEMBLE_SENTENCE": "m"}, "LENSEMBLE_CHAT_URL: not set; the embedder `hybrid`"),
        (
            {"LENSEMBLE_SENTENCE": "m", "LENSEMBLE_CHAT_URL": "http://h/v1"},
            "LENSEMBLE_CHAT_MODEL: not set",
        ),
        (
            {**HYBRID, "LENSEMBLE_CHAT_URL": "http://me:secret@h/v1"},
            r"LENSEMBLE_CHAT_URL: not a URL that can be used(?!.*secret)",
        ),
    ],
)
def test_bad_setting_names_the_variable(environ, reason):
    whole = {"LENSEMBLE_CHECKPOINT": "/c", **environ} if environ else {}
    with pytest.raises(InvalidInputError, match=reason):
        Settings.from_env(whole)


def test_embedders_are_those_that_have_a_model():
    plain = Settings(checkpoint=Path("/c"))
    assert plain.embedders == ()
    environ = {**HYBRID, "LENSEMBLE_CHAT_URL": "http://h/v1", "LENSEMBLE_CHAT_TIMEOUT_S": "2.5"}
    found = Settings.from_env({"LENSEMBLE_CHECKPOINT": "/c", **environ}, clip="openai/clip")
    assert found.embedders == ("hybrid", "clip")
    assert found.chat_timeout_s == 2.5
    assert Settings.from_env(found.to_env()) == found
