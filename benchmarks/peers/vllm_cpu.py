"""vLLM's pooling runner on CPUs, from an environment of its own: it pins other versions of torch.

`install_vllm.sh` makes that environment. Asked as its documentation says for Qwen3-VL-Embedding,
with an empty assistant message that is continued and special tokens added: then its vectors are the
reference's. Both have to be asked for in every request; without them they are others.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.peer import Peer, named

MODEL = "served"
"""The name that requests give."""

REASON = (
    "no --vllm PROGRAM; vLLM 0.33.0 from PyPI is a CUDA build (_C_stable_libtorch, flash-attention "
    "and no CPU kernels; it needs flashinfer and nvidia-cutlass), so a CPU build is needed: "
    "benchmarks/peers/install_vllm.sh FOLDER makes one, then --vllm FOLDER/bin/vllm"
)

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_MAX_TOKENS = "4096"


def available(program: Path | None) -> str | None:
    """Why it cannot be run; None if it can.

    Args:
        program: The `vllm` of an environment with a CPU build, or None.
    """
    if program is None:
        return REASON
    if not program.is_file():
        return f"{str(program)!r} is not a file; expected the program `vllm` of a CPU build"
    return None


def peer(program: Path, dtype: str = "fp32") -> Peer:
    """The server in a precision, `fp32` or `bf16`.

    Args:
        program: The `vllm` of an environment with a CPU build.
        dtype: Precision of weights and arithmetic.
    """
    command = (
        *(str(program.absolute()), "serve", "{checkpoint}", "--served-model-name", MODEL),
        *("--runner", "pooling", "--dtype", _DTYPES[dtype], "--max-model-len", _MAX_TOKENS),
        *("--host", "127.0.0.1", "--port", "{port}"),
    )
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; it would take a share of all memory
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        # Its tools, such as ninja, lie beside it.
        "VIRTUAL_ENV": str(program.absolute().parent.parent),
    }
    return Peer(named("vllm", dtype), dtype, "openai", command, environment)
