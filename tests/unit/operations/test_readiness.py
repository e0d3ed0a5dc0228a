"""What is said about a start that fails: the cause and the remedy, not the whole log."""

import subprocess
from pathlib import Path

import pytest

from lensemble.operations import tritonserver
from lensemble.operations.readiness import PortTakenError, load_failure, wait_until_ready
from lensemble.settings import Settings
from lensemble_contract.errors import DeadlineExceededError, InternalError

# As Triton 2.51 writes them.
NO_INDEX = (
    'E1127 20:48:25.579446 10001 backend_model.cc:692] "ERROR: Failed to create instance: '
    "InvalidInputError: index: no store.sqlite in 'x': not an index; build one with `lensemble "
    'index build`\\n\\nAt:\\n  /lensemble/index/storage/store.py(99): open\\n"\n'
    "E1127 20:48:25.579564 10001 model_lifecycle.cc:642] \"failed to load 'faiss' version 1: "
    "Internal: InvalidInputError: index: no store.sqlite in 'x': not an index; build one with "
    '`lensemble index build`\\n\\nAt:\\n  /lensemble/index/storage/store.py(99): open\\n"\n'
)
NO_MEMORY = (
    "E1127 20:48:25.579564 10001 model_lifecycle.cc:642] \"failed to load 'qwen3_vl' version 1: "
    "Internal: RuntimeError: CUDA error: out of memory\\nTry less\\n\\nAt:\\n"
    "  /lensemble/encoder/torch_engine.py(99): load\\n"
    '  /models/qwen3_vl/1/model.py(16): initialize\\n"'
)
NO_STUB = (
    "E1127 20:48:25.579564 10001 model_lifecycle.cc:642] \"failed to load 'store' version 1: "
    "Internal: Stub process 'store_0_0' is not healthy.\"\n"
)


@pytest.mark.parametrize(
    ("log", "lines"),
    [
        ("", []),
        ("I1127 20:48:25.579564 1 model_lifecycle.cc:642] \"successfully loaded 'faiss'\"\n", []),
        (
            NO_INDEX,
            [
                "faiss could not be loaded: index: no store.sqlite in 'x': not an index; build one "
                "with `lensemble index build`"
            ],
        ),
        (
            NO_MEMORY,
            [
                "qwen3_vl could not be loaded: RuntimeError: CUDA error: out of memory",
                "Try less",
                "  /lensemble/encoder/torch_engine.py(99): load",
                "  /models/qwen3_vl/1/model.py(16): initialize",
                "qwen3_vl could not be loaded: RuntimeError: CUDA error: out of memory",
            ],
        ),
        (NO_STUB, ["store could not be loaded: Stub process 'store_0_0' is not healthy."]),
    ],
    ids=["nothing yet", "all is well", "our own error", "another error", "no Python"],
)
def test_cause_is_found_in_the_log(tmp_path, log, lines):
    (tmp_path / "log").write_text(log)
    assert load_failure(tmp_path / "log").splitlines() == lines


def test_start_fails_as_soon_as_a_model_has_failed(tmp_path):
    """Triton itself goes on until the other models are loaded, which may take a minute."""
    (tmp_path / "log").write_text(NO_INDEX)
    process = subprocess.Popen(["sleep", "600"])
    try:
        with pytest.raises(InternalError, match="faiss could not be loaded: index: no store"):
            wait_until_ready(
                lambda: process,
                models=["faiss"],
                http_url="http://127.0.0.1:9",
                ports=[9],
                log_file=tmp_path / "log",
                timeout_s=600,
            )
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def report(tmp_path, log):
    """The error about a tritonserver that ended with this log."""
    file = tmp_path / "log"
    file.write_text(log)
    ended = subprocess.Popen(["false"])
    ended.wait()
    with pytest.raises(InternalError) as raised:
        wait_until_ready(
            lambda: ended,
            models=["qwen3_vl"],
            http_url="http://127.0.0.1:9",
            ports=[],
            log_file=file,
            timeout_s=60,
        )
    return raised.value


def test_cause_is_named_after_tritonserver_has_ended_too(tmp_path):
    error = report(tmp_path, f"{NO_INDEX}error: creating server: failed to load all models\n")
    assert error.message.startswith("faiss could not be loaded: index: no store.sqlite")


def test_time_limit_of_a_start_is_a_setting(tmp_path, monkeypatch):
    """Large weights on a slow disk take longer than the default."""
    limits = []

    def wait(*_, timeout_s, **__):
        limits.append(timeout_s)

    monkeypatch.setattr(tritonserver, "wait_until_ready", wait)
    monkeypatch.setattr(tritonserver.orphan_guard, "watch", lambda *_, **__: None)
    monkeypatch.setattr(tritonserver.orphan_guard, "forget", lambda _: None)
    monkeypatch.setattr(
        tritonserver.TritonServer,
        "_launch",
        # A group of its own, which `stop` kills.
        lambda *_: subprocess.Popen(["sleep", "600"], start_new_session=True),
    )
    for environ, given in (({}, {}), ({"LENSEMBLE_START_TIMEOUT_S": "900"}, {}), ({}, {"s": 5.0})):
        settings = Settings.from_env({"LENSEMBLE_CHECKPOINT": "c", **environ})
        server = tritonserver.TritonServer(
            settings, tritonserver=Path("/bin/true"), start_timeout_s=given.get("s")
        )
        server.start()
        server.stop()
    assert limits == [180, 900, 5]


def test_server_that_is_late_is_told_the_setting(tmp_path):
    (tmp_path / "log").write_text("")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as running:
        with pytest.raises(DeadlineExceededError, match=r"0 s \(LENSEMBLE_START_TIMEOUT_S\)"):
            wait_until_ready(
                lambda: running,
                models=["qwen3_vl"],
                http_url="http://127.0.0.1:9",
                ports=[],
                log_file=tmp_path / "log",
                timeout_s=0,
            )


def test_log_without_a_failed_model_is_shown_as_it_is(tmp_path):
    error = report(tmp_path, "error: port 8000 is already in use")
    assert isinstance(error, PortTakenError)
    assert error.message == (
        "tritonserver ended with status 1 before it was ready:\nerror: port 8000 is already in use"
    )
