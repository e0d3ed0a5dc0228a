"""Compiles every kernel for GPUs, with the sizes of the models: no spills, few registers."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lensemble.encoder.pytorch.kernels.gpu_operations import gpu_operations

# With at most this many, an SM of 64K registers holds 640 threads or more.
MOST_REGISTERS = 96
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}

# Hidden size, query heads, key heads and intermediate size of the text tower; hidden size, heads
# and size of a head of the vision tower.
MODELS = {
    "2B": (2048, 16, 8, 6144, 1024, 16, 64),
    "4B": (2560, 32, 8, 9728, 1024, 16, 64),
    "8B": (4096, 32, 8, 12288, 1152, 16, 72),
}


def launches(model: str) -> list[tuple]:
    """What the operations of one model start, for one token and one patch."""
    hidden, queries, keys, intermediate, width, heads, size = MODELS[model]
    calls = []
    operations = gpu_operations(lambda kernel, grid, *rest: calls.append((kernel, *rest)))
    zeros = lambda *shape: torch.zeros(shape, dtype=torch.bfloat16)  # noqa: E731
    tables = lambda size: (torch.zeros(1, size), torch.zeros(1, size))  # noqa: E731
    row = zeros(1, hidden), zeros(1, hidden), zeros(hidden)
    operations.add_rms_norm(*row, 1e-6)
    heads_buffer = zeros(1, queries + 2 * keys, 128)
    operations.qk_norm_rotary(heads_buffer, zeros(128), zeros(128), queries, tables(128), 1e-6)
    operations.swiglu(zeros(1, 2 * intermediate))
    patch = zeros(1, width), zeros(1, width), zeros(width), zeros(width)
    operations.add_layer_norm(*patch, 1e-6)
    operations.vision_rotary(zeros(1, 3 * heads, size), tables(size))
    return calls


def build(kernel, tensors, numbers, constants, warps, capability):
    """Compiles as `Launcher`'s first call does on a GPU of this compute capability."""
    types = [TYPES[tensor.dtype] for tensor in tensors] + ["fp32"] * len(numbers)
    given = len(types)
    types += ["constexpr"] * len(constants)
    source = ASTSource(
        fn=kernel,
        signature=dict(zip(kernel.arg_names, types, strict=True)),
        constexprs={(given + n,): value for n, value in enumerate(constants)},
        attrs={(n,): [["tt.divisibility", 16]] for n in range(len(tensors))},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps})


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("model", MODELS)
def test_no_spills_and_few_registers(model, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    calls = launches(model)
    assert len(calls) == 5
    for call in calls:
        built = build(*call, capability)
        cubin = tmp_path / "kernel.cubin"
        cubin.write_bytes(built.asm["cubin"])
        usage = {
            name: int(number)
            for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", resource_usage(cubin))
        }
        assert usage["LOCAL"] == 0 and usage["REG"] <= MOST_REGISTERS, (built.name, usage)
        # Spilled registers lie in the stack frame. For sm_100 the assembler keeps 8 bytes of it for
        # itself in one kernel.
        assert usage["STACK"] <= (8 if capability == 100 else 0), (built.name, usage)
        # Rows are read and written 16 bytes at a time.
        assert "ld.global.v4" in re.sub(r"ld\.global[.\w:]*\.v4", "ld.global.v4", built.asm["ptx"])


@pytest.mark.parametrize("model", ["8B"])
def test_rows_beyond_31_bits_are_reached(model, tmp_path, monkeypatch):
    """The row's number becomes 64-bit before anything is computed from it."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for call in launches(model):
        code = build(*call, 90).asm["ttir"]
        ((row, _),) = re.findall(r"(%\w+) = (tt\.get_program_id x)", code)
        uses = [line for line in code.splitlines() if re.search(rf"{row}\b(?! =)", line)]
        assert uses and all("arith.extsi" in line for line in uses), uses


def resource_usage(cubin: Path) -> str:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [tool, "--dump-resource-usage", cubin]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
