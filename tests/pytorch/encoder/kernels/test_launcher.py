"""Starts kernels through Triton's own machinery, with a driver that records instead of a GPU."""

from types import SimpleNamespace

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget

from lensemble.encoder.pytorch.kernels import triton_kernels
from lensemble.encoder.pytorch.kernels.gpu_operations import gpu_operations
from lensemble.encoder.pytorch.kernels.launcher import Launcher


class RecordingDriver:
    """Stands for the driver of an H100; records what it is told to start."""

    def __init__(self):
        self.started = []
        self.loaded = []
        self.utils = SimpleNamespace(
            load_binary=self._load,
            unload_module=lambda module: None,
            get_device_properties=lambda device: {"max_shared_mem": 232448},
        )

    def launcher_cls(self, source, metadata):
        names = list(source.signature)

        def start(x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):
            values = dict(zip(names, arguments, strict=True))
            self.started.append((metadata.name, (x, y, z), metadata.num_warps, values))

        return start

    def _load(self, name, binary, shared, device):
        self.loaded.append(name)
        return object(), object(), 32, 0, 1024

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def driver(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    recording = RecordingDriver()
    monkeypatch.setattr(triton.runtime.driver, "_active", recording)
    kernels = [
        each for each in vars(triton_kernels).values() if isinstance(each, triton.JITFunction)
    ]
    for kernel in kernels:
        kernel.device_caches.clear()
    yield recording
    for kernel in kernels:  # builds must not outlive their driver
        kernel.device_caches.clear()


def test_later_starts_pass_the_same_arguments_to_the_build(driver, monkeypatch):
    searches = []
    search = triton.JITFunction.run

    def counted(self, *args, **kwargs):
        searches.append(self)
        return search(self, *args, **kwargs)

    monkeypatch.setattr(triton.JITFunction, "run", counted)
    operations = gpu_operations(Launcher())
    weight = torch.ones(96, dtype=torch.bfloat16)
    for rows in (5, 1, 37):
        summands = (torch.zeros(rows, 96, dtype=torch.bfloat16) for _ in range(2))
        residual, product = summands
        out = operations.add_rms_norm(residual, product, weight, 1e-6)
        name, grid, warps, values = driver.started.pop()
        assert (name, grid, warps) == ("add_rms_norm_kernel", (rows, 1, 1), 4)
        assert values["residual"] is residual and values["product"] is product
        assert values["weight"] is weight and values["out"] is out
        assert (values["eps"], values["SIZE"], values["BLOCK"]) == (1e-6, 96, 128)
    assert driver.loaded == ["add_rms_norm_kernel"]
    assert len(searches) == 1  # only the first start goes through Triton's search for a build


def test_other_dtypes_and_sizes_get_their_own_builds(driver):
    operations = gpu_operations(Launcher())
    for dtype, size in ((torch.float32, 64), (torch.bfloat16, 64), (torch.bfloat16, 128)):
        operations.swiglu(torch.zeros(2, size, dtype=dtype))
    assert len(driver.loaded) == 3


def test_unaligned_tensor_gets_a_build_without_wide_loads(driver):
    operations = gpu_operations(Launcher())
    buffer = torch.zeros(2 * 64 + 1)
    for _ in range(2):
        operations.swiglu(buffer[:-1].view(2, 64))
    operations.swiglu(buffer[1:].view(2, 64))  # 4 bytes beyond a multiple of 16
    operations.swiglu(buffer[:-1].view(2, 64))
    assert len(driver.loaded) == 2
    assert len(driver.started) == 4


def test_no_rows_start_nothing(driver):
    gpu_operations(Launcher()).swiglu(torch.zeros(0, 64))
    assert driver.started == []


def test_all_operations_start_their_kernel(driver):
    operations = gpu_operations(Launcher())
    tables = torch.zeros(2, 64), torch.zeros(2, 64)
    row, weight = torch.zeros(2, 96), torch.ones(96)
    operations.add_layer_norm(row, row.clone(), weight, weight, 1e-6)
    operations.qk_norm_rotary(torch.zeros(2, 5, 64), weight[:64], weight[:64], 3, tables, 1e-6)
    operations.vision_rotary(torch.zeros(2, 9, 64), tables)
    operations.swiglu(torch.zeros(2, 4400))
    started = [(name, grid) for name, grid, _, _ in driver.started]
    assert started == [
        ("add_layer_norm_kernel", (2, 1, 1)),
        ("qk_norm_rotary_kernel", (2, 1, 1)),
        ("vision_rotary_kernel", (2, 1, 1)),
        ("swiglu_kernel", (2, 3, 1)),
    ]
    rotary = driver.started[1][3]
    assert (rotary["QUERIES"], rotary["KEYS"], rotary["SIZE"]) == (3, 1, 64)
    assert (rotary["QUERY_BLOCK"], rotary["KEY_BLOCK"], rotary["HALF_BLOCK"]) == (4, 1, 32)
