"""What is reported about a tritonserver that ends before it is ready."""

import subprocess

import pytest

from lensemble.operations.readiness import PortTakenError, wait_until_ready
from lensemble_client import InternalError

# What Triton 2.51 logs if a model raises an error while it loads.
CAUSE = "InvalidInputError: LENSEMBLE_DEVICE: PyTorch cannot compute on 'cuda:0': no driver"
STACK = r"\n\nAt:\n  /app/lensemble/gpu.py(60): require_device\n  /app/model.py(16): initialize\n"
LOG = "\n".join(
    [
        'E1127 20:49:05.7 10706 server.cc:241] "CudaDriverHelper has not been initialized."',
        f'E1127 20:49:21.1 10706 backend_model.cc:692] "ERROR: Failed to create instance: {CAUSE}'
        f'{STACK}"',
        "E1127 20:49:21.1 10706 model_lifecycle.cc:642] \"failed to load 'qwen3_vl' version 1: "
        f'Internal: {CAUSE}{STACK}"',
        'E1127 20:49:21.1 10706 model_repository_manager.cc:703] "Invalid argument: ensemble '
        f"'embed' depends on 'qwen3_vl' which has no loaded version. {CAUSE}{STACK};\"",
        *(f"I1127 20:49:22.1 10706 server.cc:{n}] waiting" for n in range(40)),
        "error: creating server: Internal - failed to load all models",
    ]
)


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


def test_cause_comes_first_and_last_without_the_stack(tmp_path):
    lines = report(tmp_path, LOG).message.split("\n")
    assert lines[0] == (f"tritonserver ended with status 1 before it was ready: qwen3_vl: {CAUSE}")
    assert lines[-1] == f"qwen3_vl: {CAUSE}"
    assert lines.count(lines[-1]) == 1
    assert "failed to load all models" in lines[-2]


def test_log_without_a_failed_model_is_shown_as_it_is(tmp_path):
    error = report(tmp_path, "error: port 8000 is already in use")
    assert isinstance(error, PortTakenError)
    assert error.message == (
        "tritonserver ended with status 1 before it was ready:\nerror: port 8000 is already in use"
    )
