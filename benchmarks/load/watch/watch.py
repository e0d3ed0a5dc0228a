"""Looks at the server every so often, from a thread of the process that started it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load.watch import lanes, processes, statistics

Sample = dict[str, Any]

_COUNTED = {"models": statistics.between, "lanes": lanes.between}


@dataclass(slots=True)
class Watched:
    """What is looked at; what is None or empty is not.

    Attributes:
        statistics_url: Triton's gRPC or HTTP.
        pids: Name -> process.
        shared_memory: How the names of the server's segments begin.
        metrics_url: Triton's metrics.
    """

    statistics_url: str | None = None
    pids: dict[str, int | None] = field(default_factory=dict)
    shared_memory: str = ""
    metrics_url: str | None = None


class Watch:
    """A context manager; while it is open, there are more and more samples.

    Args:
        watched: What to look at; processes may be added meanwhile.
        interval_s: Seconds from one look to the next.

    Attributes:
        samples: `at` (seconds since 1970), `processes`, `shared_memory_bytes`, `gpu`, `models`,
            `lanes`.
    """

    def __init__(self, watched: Watched, interval_s: float) -> None:
        self._watched, self._interval_s = watched, interval_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            self.samples.append(self.look())
            due = max(due + self._interval_s, time.monotonic())
            self._end.wait(due - time.monotonic())

    def look(self) -> Sample:
        """One sample. What cannot be read now is left out."""
        sample: Sample = {
            "at": time.time(),
            "processes": processes.used(dict(self._watched.pids)),
            "gpu": processes.gpu(),
        }
        if self._watched.shared_memory:
            sample["shared_memory_bytes"] = processes.shared_memory(self._watched.shared_memory)
        if self._watched.statistics_url is not None:
            try:
                sample["models"] = statistics.read(self._watched.statistics_url)
            except OSError:
                pass
        if self._watched.metrics_url is not None:
            try:
                sample["lanes"] = lanes.read(self._watched.metrics_url)
            except OSError:
                pass
        return sample

    def save(self, file: Path) -> None:
        """Writes all samples, one line of JSON each, without counters of requests."""
        with file.open("w") as lines:
            for sample in self.samples:
                kept = {key: value for key, value in sample.items() if key not in _COUNTED}
                lines.write(json.dumps(kept) + "\n")


def between(samples: Sequence[Sample], begins: float, ends: float) -> Mapping[str, Any]:
    """What the server used and did in a time.

    Args:
        samples: In order.
        begins: Seconds since 1970.
        ends: The same.

    Returns:
        `watched_s` (between first and last look within that time), `processes` (name -> `cores`
        in use on average, `resident_mib` at most, `files` at most), `models` (see `statistics`),
        `lanes` (see there), `shared_memory_mib` at most, `gpu` means. Empty if there were fewer
        than two looks.
    """
    inside = [sample for sample in samples if begins <= sample["at"] <= ends]
    if len(inside) < 2:
        return {}
    first, last = inside[0], inside[-1]
    passed = last["at"] - first["at"]
    found: dict[str, Any] = {
        "watched_s": round(passed, 2),
        "processes": {
            name: {
                "cores": round((late["cpu_s"] - first["processes"][name]["cpu_s"]) / passed, 3),
                "resident_mib": _most(inside, name, "resident_bytes") / 2**20,
                "files": _most(inside, name, "files"),
                "processes": late["processes"],
            }
            for name, late in last["processes"].items()
            if name in first["processes"]
        },
    }
    for key, difference in _COUNTED.items():
        counted = [sample[key] for sample in inside if key in sample]
        if len(counted) >= 2:
            found[key] = difference(counted[0], counted[-1])
    if shared := [s["shared_memory_bytes"] for s in inside if "shared_memory_bytes" in s]:
        found["shared_memory_mib"] = max(shared) / 2**20
    if cards := [sample["gpu"] for sample in inside if sample["gpu"] is not None]:
        found["gpu"] = {key: sum(card[key] for card in cards) / len(cards) for key in cards[0]}
    return found


def _most(samples: Sequence[Sample], name: str, key: str) -> float:
    return float(max(s["processes"][name][key] for s in samples if name in s["processes"]))
