"""Samples the server at a fixed interval, from a thread of the process that started it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load.monitoring import lanes, processes, triton_statistics

Sample = dict[str, Any]

# Counters that only grow -> how to subtract an earlier reading from a later one.
_DIFFERENCES = {"models": triton_statistics.difference, "lanes": lanes.difference}


@dataclass(slots=True)
class SampleSources:
    """Where samples come from; a source that is None or empty is not read.

    Attributes:
        statistics_url: Triton's gRPC or HTTP URL.
        pids: Name -> process id.
        shared_memory: Prefix of the names of the server's shared-memory segments.
        metrics_url: URL of Triton's metrics.
    """

    statistics_url: str | None = None
    pids: dict[str, int | None] = field(default_factory=dict)
    shared_memory: str = ""
    metrics_url: str | None = None


class Sampler:
    """A context manager that takes samples while it is open.

    Args:
        sources: What to read; processes may be added while it is open.
        interval_s: Seconds between two samples.

    Attributes:
        samples: Samples in order, each with `at` (seconds since 1970), `processes`, `gpu`, and
            where they can be read `shared_memory_bytes`, `models`, `lanes`.
    """

    def __init__(self, sources: SampleSources, interval_s: float) -> None:
        self._sources, self._interval_s = sources, interval_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            self.samples.append(self.sample())
            due = max(due + self._interval_s, time.monotonic())
            self._end.wait(due - time.monotonic())

    def sample(self) -> Sample:
        """Takes one sample; what cannot be read at the moment is left out."""
        sample: Sample = {
            "at": time.time(),
            "processes": processes.read_usage(dict(self._sources.pids)),
            "gpu": processes.gpu(),
        }
        if self._sources.shared_memory:
            sample["shared_memory_bytes"] = processes.shared_memory(self._sources.shared_memory)
        if self._sources.statistics_url is not None:
            try:
                sample["models"] = triton_statistics.read_counters(self._sources.statistics_url)
            except OSError:
                pass
        if self._sources.metrics_url is not None:
            try:
                sample["lanes"] = lanes.read_counters(self._sources.metrics_url)
            except OSError:
                pass
        return sample

    def save(self, file: Path) -> None:
        """Writes all samples without the request counters, one line of JSON each."""
        with file.open("w") as lines:
            for sample in self.samples:
                usage = {key: value for key, value in sample.items() if key not in _DIFFERENCES}
                lines.write(json.dumps(usage) + "\n")


def usage_between(samples: Sequence[Sample], begins: float, ends: float) -> Mapping[str, Any]:
    """Returns what the server used and did between two times.

    Args:
        samples: Samples in order.
        begins: Start, in seconds since 1970.
        ends: End, in seconds since 1970.

    Returns:
        `watched_s` (seconds between the first and the last sample in that time), `processes` (name
        -> mean `cores`, largest `resident_mib`, largest `files`), `models` and `lanes` (see
        `triton_statistics` and `lanes`), largest `shared_memory_mib`, and means of `gpu`. Empty if
        there were fewer than two samples.
    """
    inside = [sample for sample in samples if begins <= sample["at"] <= ends]
    if len(inside) < 2:
        return {}
    first, last = inside[0], inside[-1]
    watched_s = last["at"] - first["at"]
    usage: dict[str, Any] = {
        "watched_s": round(watched_s, 2),
        "processes": {
            name: {
                "cores": round((late["cpu_s"] - first["processes"][name]["cpu_s"]) / watched_s, 3),
                "resident_mib": _largest(inside, name, "resident_bytes") / 2**20,
                "files": _largest(inside, name, "files"),
                "processes": late["processes"],
            }
            for name, late in last["processes"].items()
            if name in first["processes"]
        },
    }
    for key, difference in _DIFFERENCES.items():
        counters = [sample[key] for sample in inside if key in sample]
        if len(counters) >= 2:
            usage[key] = difference(counters[0], counters[-1])
    if shared := [s["shared_memory_bytes"] for s in inside if "shared_memory_bytes" in s]:
        usage["shared_memory_mib"] = max(shared) / 2**20
    if gpus := [sample["gpu"] for sample in inside if sample["gpu"] is not None]:
        usage["gpu"] = {key: sum(gpu[key] for gpu in gpus) / len(gpus) for key in gpus[0]}
    return usage


def _largest(samples: Sequence[Sample], name: str, key: str) -> float:
    return float(max(s["processes"][name][key] for s in samples if name in s["processes"]))
