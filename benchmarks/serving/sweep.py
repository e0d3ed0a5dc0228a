"""Settings of the server, one changed at a time, with 1 caller and with 64.

    python -m benchmarks.serving.sweep [--quick] [--workload demo|small] [--save]

Every variant has a server of its own. The variant and the defaults take turns in each round. The
table has their ratios within the same round: median, smallest and largest.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common.results import print_and_save
from benchmarks.common.workloads import WORKLOADS
from benchmarks.serving import callers
from lensemble.operations.model_repository import write_repository
from lensemble.operations.signals import stop_on_signals
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings

CALLERS = (1, 64)
# Requests of one variant in one round, with 1 and with 64 callers.
REQUESTS = {"demo": (200, 1024), "small": (24, 128)}

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """A configuration of the server.

    Attributes:
        settings: Fields of `Settings`.
        delay_us: Microseconds that the batcher of `qwen3_vl` waits for more requests.
        environment: Environment variables of the server.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    delay_us: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def repository(self, settings: Settings, folder: Path) -> Path:
        """Writes the model repository with this variant's configuration, and returns its folder."""
        copy = write_repository(settings, folder / "models")
        if self.delay_us:
            delay = f"dynamic_batching {{ max_queue_delay_microseconds: {self.delay_us} }}"
            _replace_in_config(copy / "qwen3_vl", r"dynamic_batching \{ \}", delay)
        return copy


DEFAULTS = "defaults"
VARIANTS = {
    DEFAULTS: Variant(),
    "the defaults again": Variant(),  # shows how much two equal servers differ
    "1 preprocess instance": Variant({"preprocess_instances": 1}),
    "3 preprocess instances": Variant({"preprocess_instances": 3}),
    "1 encoder thread": Variant({"threads": 1}),
    "2 encoder instances": Variant({"encoder_instances": 2}),
    "batching delay 1 ms": Variant(delay_us=1000),
    "batching delay 5 ms": Variant(delay_us=5000),
    "batch_tokens 1024": Variant({"batch_tokens": 1024}),
    "batch_tokens 2048": Variant({"batch_tokens": 2048}),
    "batch_tokens 16384": Variant({"batch_tokens": 16_384}),
    "batch_patches 1024": Variant({"batch_patches": 1024}),
    "batch_patches 16384": Variant({"batch_patches": 16_384}),
    "libgomp spins as it likes": Variant(environment={"GOMP_SPINCOUNT": "300000"}),
    "libgomp never spins": Variant(environment={"GOMP_SPINCOUNT": "0"}),
    "fp32": Variant({"dtype": "fp32"}),
}


def _replace_in_config(model: Path, pattern: str, replacement: str) -> None:
    config = model / "config.pbtxt"
    text, count = re.subn(pattern, replacement, config.read_text())
    if count != 1:
        raise ValueError(f"{pattern!r} occurs {count} times in {config}; expected once")
    config.write_text(text)


@contextmanager
def running_variant(variant: Variant, checkpoint: Path) -> Iterator[TritonServer]:
    """Starts a server of this variant, and stops it when the block is left."""
    settings = Settings(checkpoint=checkpoint, **variant.settings)
    before = {name: os.environ.get(name) for name in variant.environment}
    with TemporaryDirectory() as folder:
        os.environ.update(variant.environment)  # the server inherits them when it starts
        try:
            server = TritonServer(
                settings, repository=variant.repository(settings, Path(folder))
            ).start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        with server:
            yield server


def measure(name: str, variants: dict[str, Variant], rounds: int) -> dict[str, Figures]:
    """Measures each variant against the defaults.

    Args:
        name: A key of `WORKLOADS`.
        variants: Name -> variant.
        rounds: Number of rounds.
    """
    checkpoint = WORKLOADS[name].checkpoint()
    results: dict[str, Figures] = {}
    with ExitStack() as stack:
        defaults = stack.enter_context(running_variant(VARIANTS[DEFAULTS], checkpoint))
        for label, variant in variants.items():
            with running_variant(variant, checkpoint) as server:
                print(label, file=sys.stderr)
                results[label] = _compare_with_defaults(name, defaults, server, rounds)
    return results


def _compare_with_defaults(
    name: str, defaults: TritonServer, server: TritonServer, rounds: int
) -> Figures:
    figures: Figures = {}
    for count, requests in zip(CALLERS, REQUESTS[name], strict=True):
        ratios: dict[str, list[float]] = {"items_per_s": [], "p50_ms": [], "p99_ms": []}
        for turn in range(rounds):
            measured = {}
            # They take turns at being first, since a machine may be faster or slower after idling.
            for which in (server, defaults) if turn % 2 else (defaults, server):
                measured[which] = callers.run_in_process(
                    which.grpc_url, name, callers=count, requests=requests
                )
            of_variant, of_defaults = measured[server], measured[defaults]
            for key, each in ratios.items():
                each.append(of_variant[key] / of_defaults[key])
        for key, each in ratios.items():
            figures[f"{key}_{count}"] = round(statistics.median(each), 2)
            figures[f"{key}_{count}_spread"] = [round(min(each), 2), round(max(each), 2)]
    return figures


def table(results: dict[str, Figures]) -> str:
    """Returns the ratios to the defaults as a table."""
    columns = [f"{key}_{count}" for count in CALLERS for key in ("items_per_s", "p50_ms", "p99_ms")]
    lines = [f"{'over the defaults':28}" + "".join(f"{column:>24}" for column in columns)]
    for label, figures in results.items():
        cells = []
        for column in columns:
            least, most = figures[f"{column}_spread"]
            cells.append(f"{f'{figures[column]:.2f} ({least:.2f}-{most:.2f})':>24}")
        lines.append(f"{label:28}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds")
    parser.add_argument("--workload", choices=WORKLOADS, default="demo")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="only these")
    parser.add_argument("--save", action="store_true", help="write results/sweep-WORKLOAD.json")
    options = parser.parse_args()
    rounds = 2 if options.quick else 5
    names = options.variants or [name for name in VARIANTS if name != DEFAULTS]
    with stop_on_signals():
        results = measure(options.workload, {name: VARIANTS[name] for name in names}, rounds)
    print(table(results))
    print_and_save(f"sweep-{options.workload}", {"rounds": rounds}, results, options.save)


if __name__ == "__main__":
    main()
