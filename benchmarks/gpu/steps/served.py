"""Through Triton: throughput as a share of the encoder alone, latency by load, time per stage.

`embed` over gRPC, from two client processes, on pictures of one size, on mixed items and on short
texts; all items are different. Before that, the encoder alone runs on the features of the same
items and is then unloaded.
"""

from __future__ import annotations

import gc
import time
import traceback
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.gpu.measuring.client_process import WARM_UP_S, ClientProcesses
from benchmarks.gpu.measuring.context import Step, parse_arguments
from benchmarks.gpu.measuring.gpu_use import GpuUse
from benchmarks.gpu.measuring.item_sets import SETS, read_set
from benchmarks.load.monitoring.triton_statistics import difference, read_counters
from lensemble.checkpoint import Checkpoint
from lensemble.encoder.pytorch.torch_engine import TorchEngine
from lensemble.operations.model_repository import write_repository
from lensemble.operations.tritonserver import TritonServer
from lensemble.preprocess.preprocessor import Preprocessor
from lensemble.settings import Settings
from lensemble_contract import contract

CALLERS, _DRY_CALLERS = (64, 16, 1), (4, 1)
SECONDS, _DRY_SECONDS = 4.0, 3.0
START_S, _DRY_START_S = 60.0, 150.0
_ALONE_ITEMS, _DRY_ALONE_ITEMS = 128, 8
_STAGES = (contract.PREPROCESS.name, contract.QWEN3_VL.name)


def encoder_alone(step: Step) -> dict[str, float]:
    """Returns, for each set, the items per second of the encoder on preprocessed features.

    Afterwards the encoder's memory is free again, for the server.
    """
    rates = _rates(step, step.encoder())
    gc.collect()
    if not step.dry:
        torch.cuda.empty_cache()
    return rates


def _rates(step: Step, encoder: TorchEngine) -> dict[str, float]:
    preprocess = Preprocessor(Checkpoint.open(step.checkpoint()))
    rates = {}
    for name in SETS:
        items = read_set(step.work / "items" / name)
        features = [
            preprocess(item) for item in items[: _DRY_ALONE_ITEMS if step.dry else _ALONE_ITEMS]
        ]
        seconds = step.seconds(partial(encoder.vectors, features), repeats=3)
        rates[name] = round(len(features) / seconds, 1)
    return rates


def start_server(step: Step, stack: ExitStack) -> TritonServer:
    """Starts the server as usual; if that fails, without Triton's own handling of GPUs.

    Triton then believes that the encoder runs on the CPU, and the encoder takes the GPU by itself.
    """
    settings = step.settings(preprocess_instances=step.instances)
    seconds = _DRY_START_S if step.dry else START_S
    try:
        # Not "auto": if Triton finds no GPU, that would start a server on the CPU.
        return _entered(stack, TritonServer(settings, start_timeout_s=seconds, start_tries=1))
    except Exception as error:
        traceback.print_exc()
        step.add(start="as usual", failed=f"{type(error).__name__}: {error}"[:2000])
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="gpu-models-")))
    repository = on_cpu_for_triton(settings, folder / "models")
    server = TritonServer(settings, repository=repository, start_timeout_s=seconds, start_tries=1)
    return _entered(stack, server)


def on_cpu_for_triton(settings: Settings, folder: Path) -> Path:
    """Writes the models so that Triton itself uses no GPU, and returns their folder."""
    repository = write_repository(settings, folder)
    for config in repository.glob("*/config.pbtxt"):
        text = config.read_text()
        config.write_text(text.replace("KIND_AUTO", "KIND_CPU").replace("KIND_GPU", "KIND_CPU"))
    return repository


def _entered(stack: ExitStack, server: TritonServer) -> TritonServer:
    began = time.monotonic()
    stack.enter_context(server)
    print(f"the server is ready after {time.monotonic() - began:.1f} s")
    return server


def load(
    step: Step,
    server: TritonServer,
    clients: ClientProcesses,
    name: str,
    callers: int,
    alone: float,
) -> dict[str, Any]:
    """Returns the figures of one set and number of callers."""
    seconds = _DRY_SECONDS if step.dry else SECONDS
    before = read_counters(server.grpc_url)
    with GpuUse() as use:
        figures = clients.measure(name, callers, time.monotonic() + WARM_UP_S, seconds)
        means = use.means()
    stages = difference(before, read_counters(server.grpc_url))
    of_stages = {
        f"{stage}_{key}": stages[stage][key]
        for stage in _STAGES
        if stage in stages
        for key in ("queue_ms", "compute_infer_ms", "mean_batch")
    }
    share = round(figures["items_per_s"] / alone, 3)
    return {**figures, "of_encoder_alone": share, **means, **of_stages}


def main() -> None:
    """Runs the step."""
    step = parse_arguments(__doc__, "served")
    rates = encoder_alone(step)
    step.note(encoder_alone_items_per_s=rates, instances=step.instances)
    with ExitStack() as stack:
        server = start_server(step, stack)
        clients = stack.enter_context(ClientProcesses(server.grpc_url, step.work / "items"))
        for callers in _DRY_CALLERS if step.dry else CALLERS:
            for name in SETS:
                step.measure(
                    partial(load, step, server, clients, name, callers, rates[name]),
                    set=name,
                    callers=callers,
                )
        if step.rows and any("failed" in row for row in step.rows):
            print(server.log_tail())
    step.finish()


if __name__ == "__main__":
    main()
