"""vLLM's pooling runner on CPUs.

It runs in an environment of its own, which `install_vllm.sh` makes, because it pins other versions
of torch. Requests follow its documentation for Qwen3-VL-Embedding: special tokens are added, and an
empty assistant message is continued. Every request must ask for both; otherwise the vectors are not
those of the reference.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.peer import Peer, name_with_dtype

# Name of the model in requests.
MODEL = "served"

REASON = (
    "no --vllm PROGRAM; vLLM 0.33.0 from PyPI is a CUDA build (_C_stable_libtorch, flash-attention "
    "and no CPU kernels; it needs flashinfer and nvidia-cutlass), so a CPU build is needed: "
    "benchmarks/peers/install_vllm.sh FOLDER makes one, then --vllm FOLDER/bin/vllm"
)

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_MAX_TOKENS = "4096"


def reason_to_skip(program: Path | None) -> str | None:
    """Returns the reason why vLLM cannot be run; None if it can.

    Args:
        program: Program `vllm` of an environment with a CPU build, or None.
    """
    if program is None:
        return REASON
    if not program.is_file():
        return f"{str(program)!r} is not a file; expected the program `vllm` of a CPU build"
    return None


def peer(program: Path, dtype: str = "fp32") -> Peer:
    """Returns the server in a precision, `fp32` or `bf16`.

    Args:
        program: Program `vllm` of an environment with a CPU build.
        dtype: Precision of weights and arithmetic.
    """
    command = (
        *(str(program.absolute()), "serve", "{checkpoint}", "--served-model-name", MODEL),
        *("--runner", "pooling", "--dtype", _DTYPES[dtype], "--max-model-len", _MAX_TOKENS),
        *("--host", "127.0.0.1", "--port", "{port}"),
    )
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; by default it takes a share of all memory
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        # Its tools, such as ninja, are in the same environment.
        "VIRTUAL_ENV": str(program.absolute().parent.parent),
    }
    return Peer(name_with_dtype("vllm", dtype), dtype, "openai", command, environment)
