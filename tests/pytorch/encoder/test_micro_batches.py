import numpy as np
import pytest
import torch

from lensemble.encoder.micro_batches.halving import encode_with_halving
from lensemble.encoder.micro_batches.split import split_by_budgets, split_by_padded_cost
from lensemble.memory_errors import is_out_of_memory
from lensemble_client import InternalError, OverloadedError
from tests.unit.encoder.items import mixed


@pytest.mark.parametrize(
    ("tokens", "patches", "expected"),
    [
        (100, 100, [[0, 1, 2, 3]]),
        (8, 100, [[0, 1], [2], [3]]),
        (1, 100, [[0], [1], [2], [3]]),
        (100, 8, [[0, 1, 2], [3]]),
    ],
)
def test_micro_batches_stay_within_both_budgets(tokens, patches, expected):
    items = [mixed(4), mixed(4), mixed(2, (2, 4), 1), mixed(5, (2, 4), 1)]
    assert split_by_budgets(items, tokens, patches) == expected


@pytest.mark.parametrize(
    ("costs", "budget", "expected"),
    [
        ([5, 1, 2], 100, [[1, 2, 0]]),
        ([5, 1, 2], 4, [[1, 2], [0]]),  # 2 items of cost 2 fit, and the item of cost 5 is alone
        ([3, 3, 3], 6, [[0, 1], [2]]),
        ([], 6, []),
    ],
)
def test_padded_batches_stay_within_the_budget(costs, budget, expected):
    assert list(split_by_padded_cost(costs, budget)) == expected


def test_only_the_items_at_fault_have_an_error():
    batches = []

    def encode(numbers):
        batches.append(list(numbers))
        if 3 in numbers:
            raise ValueError("three")
        if 5 in numbers:
            raise MemoryError
        return np.array([[number] for number in numbers], np.float32)

    results = encode_with_halving([1, 2, 3, 4, 5, 6], encode)
    assert [float(results[n][0]) for n in (0, 1, 3, 5)] == [1, 2, 4, 6]
    assert isinstance(results[2], InternalError)
    assert isinstance(results[4], OverloadedError)
    assert batches[:3] == [[1, 2, 3, 4, 5, 6], [1, 2, 3], [1]]


def test_failed_pass_is_halved_though_the_driver_fails_for_good(monkeypatch):
    """After an illegal access every call of CUDA fails, the one that frees memory, too."""

    def fail():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def encode(numbers):
        if 2 in numbers:
            fail()
        return np.array([[number] for number in numbers], np.float32)

    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    first, second = encode_with_halving([1, 2], encode)
    assert float(first[0]) == 1
    assert isinstance(second, InternalError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (
            RuntimeError(
                "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory(const "
                "faiss::gpu::AllocRequest&) at faiss/gpu/StandardGpuResources.cpp:452: Error: "
                "'err == cudaSuccess' failed: StandardGpuResources: alloc fail type FlatData dev "
                "2 space Device stream 0 size 2764800000 bytes (cudaMalloc error out of memory [2])"
            ),
            True,
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_errors_for_lack_of_memory_are_known(error, expected):
    assert is_out_of_memory(error) == expected
