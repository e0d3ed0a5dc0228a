"""Large inputs through memory that client and server share, for a server on the same machine.

The system shared memory extension of the KServe v2 protocol (Triton, `protocol/
extension_shared_memory.md`): the client names a POSIX shared memory object to the server, which
maps it; requests then say where in it an input lies. Triton since 26.04 refuses this unless it runs
with `--allow-client-shm=true`, and a server elsewhere or with a `/dev/shm` of its own cannot open
the object: all then goes over the wire, as ever.

What is left behind when a client dies: nothing in `/dev/shm`, as the object's name is removed once
the server has mapped it (until then, Python's resource tracker removes it). The server keeps its
mapping, of the pages that were used, until it ends or the next client with shared memory comes,
which has the mappings of dead clients removed; the server refuses that as long as it reads there.

It saves the way, not the work. On two cores a request of 5 MB that the server refuses unread took
6.6 ms instead of 43 ms, one of 1 MB 1.9 ms instead of 4.1 ms; but to embed a picture of 5 MB took
28 ms instead of 41 ms, and one of 100 KB as long as over the wire (`OMP_NUM_THREADS=1 python -m
benchmarks.serving.shared_memory`; `benchmarks/results/shared_memory.json`). So it is off unless
asked for. Outputs are small, and stay on the wire.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensemble_client.transports.registration import Registrar
from lensemble_client.transports.wire import Placed, Sent
from lensemble_contract import contract
from lensemble_contract.errors import (
    CancelledError,
    DeadlineExceededError,
    LensembleError,
    NotFoundError,
    NotReadyError,
)
from lensemble_contract.items import Rows

SLOTS = 16
"""Requests that may have inputs there at a time."""
SLOT_BYTES = 8 * 1024**2
"""Of the inputs of one request; memory is taken as it is used."""
LEAST_BYTES = 64 * 1024
"""A smaller input goes over the wire."""

_OBJECTS = Path("/dev/shm")
_PREFIX = "lensemble"
_ALIGNMENT = 64
_RENEW_S = 60.0
_WAITS_S = (0.0, 0.01, 0.05, 0.2)

_logger = logging.getLogger(__name__)
_UNANSWERED = (CancelledError, DeadlineExceededError, NotReadyError)


class Pool:
    """Slots of one region of shared memory, for one connection. Safe to use from several threads.

    A slot whose request got no answer is not used again, as the server may read it yet: what it
    read would be another request's. If none is left, the region is given up for a new one, once
    the server reads nothing there.

    Args:
        registrar: Tells the server.
    """

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._region: _Region | None = None
        self._off = False
        self._not_before = 0.0

    def opened(self, model: contract.Model, rows: Sent) -> bool:
        """Whether `lent` need not talk to the server first; if it must, `open` can before it.

        Args:
            model: That will be run.
            rows: Its inputs.
        """
        return self._settled() or not _large(model, rows)

    def open(self) -> None:
        """Makes the region, if there is none and can be one; talks to the server."""
        with self._opening:
            if self._settled():
                return
            region, self._not_before = self._region, time.monotonic() + _RENEW_S
            try:
                if region is not None:  # no slot of it is left
                    self._registrar.unregister(region.name)
                    region.close()
                    region = None
                region = self._made()
                self._not_before = 0.0
            except OSError:  # no room, or no such thing on this system
                pass
            except NotReadyError:  # as the call itself will find
                self._not_before = 0.0
            except LensembleError as error:
                # One that still reads the old region may let go of it later.
                if region is None and not isinstance(error, DeadlineExceededError):
                    self._off = True
                    _logger.warning("inputs go over the wire, not by shared memory: %s", error)
            with self._lock:
                closed = self._off
                self._region = None if closed else region
            if closed and region is not None:
                self._drop(region)

    @contextlib.contextmanager
    def lent(self, model: contract.Model, rows: Sent) -> Iterator[Sent]:
        """Places the large inputs of one request, as long as it takes.

        Args:
            model: That is run.
            rows: Its inputs, name -> array (B, ...).

        Yields:
            The same, with what was placed as `Placed`; the very rows if nothing was.
        """
        large = {} if self._off else _large(model, rows)
        if large:
            self.open()
        region = self._region if large else None
        slot = None if region is None else region.take()
        if region is None or slot is None:
            yield rows
            return
        answered = True
        try:
            placed = region.place(slot, large)
            try:
                yield {**rows, **placed}
            except BaseException as error:
                answered = isinstance(error, LensembleError) and not isinstance(error, _UNANSWERED)
                raise
        finally:
            region.give(slot, again=answered)

    def lost(self, sent: Sent, error: LensembleError) -> bool:
        """Whether a call failed only as the server knows the region no longer: it was restarted.

        If so, the next call makes a new one.

        Args:
            sent: Its inputs, as `lent` gave them.
            error: What it failed with.
        """
        names = {value.region for value in sent.values() if isinstance(value, Placed)}
        if not isinstance(error, NotFoundError) or not any(name in str(error) for name in names):
            return False
        with self._lock:
            region = self._region
            if region is not None and region.name in names:
                self._region = None
                region.close()
        return True

    def close(self) -> None:
        """Gives the memory back."""
        with self._lock:
            region, self._region, self._off = self._region, None, True
        if region is not None:
            self._drop(region)

    def _settled(self) -> bool:
        """Whether there is nothing to make: a region with slots, or none to be had now."""
        with self._lock:
            region, waits = self._region, time.monotonic() < self._not_before
            return self._off or waits or (region is not None and not region.spent)

    def _drop(self, region: _Region) -> None:
        region.close()
        for wait in _WAITS_S:  # an answer comes a little before the server lets go
            time.sleep(wait)
            try:
                self._registrar.unregister(region.name)
                return
            except NotReadyError:  # the server is gone, and the mapping with it
                return
            except LensembleError:
                continue  # if it reads for long, the next client sees to it

    def _made(self) -> _Region:
        for name in self._registrar.regions():
            if _of_dead_client(name):
                with contextlib.suppress(LensembleError):  # still read, or another was faster
                    self._registrar.unregister(name)
        region = _Region(_new_name())
        try:
            self._registrar.register(region.name, region.key, region.size)
        except BaseException:
            region.close()
            raise
        finally:
            region.unlink()
        return region


class _Region:
    """One object of shared memory, cut into slots.

    Args:
        name: For the server.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, name: str) -> None:
        self.name, self.size = name, SLOTS * SLOT_BYTES
        self._memory = SharedMemory(create=True, size=self.size)
        self.key = f"/{self._memory.name}"
        self._file = -1
        try:
            self._file = os.open(_OBJECTS / self._memory.name, os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            self.unlink()
            raise
        self._lock = threading.Lock()
        self._free, self._lent, self._closed = list(range(SLOTS)), 0, False
        self._reserved = [0] * SLOTS

    @property
    def spent(self) -> bool:
        """Whether no slot is left, nor will be."""
        with self._lock:
            return not self._free and not self._lent

    def unlink(self) -> None:
        """Removes the name; the memory stays."""
        with contextlib.suppress(FileNotFoundError):
            self._memory.unlink()

    def take(self) -> int | None:
        """A slot; None if none is free."""
        with self._lock:
            if self._closed or not self._free:
                return None
            self._lent += 1
            return self._free.pop()

    def give(self, slot: int, *, again: bool) -> None:
        """Takes a slot back, to be used again or not."""
        with self._lock:
            self._lent -= 1
            if again:
                self._free.append(slot)
            self._end()

    def close(self) -> None:
        """Unmaps the memory, once no slot is lent."""
        with self._lock:
            self._closed = True
            self._end()

    def place(self, slot: int, large: Mapping[str, NDArray[Any]]) -> dict[str, Placed]:
        """Writes arrays into a slot, as many as fit."""
        placed, begin = {}, 0
        for name, array in large.items():
            count = _size(array)
            end = begin + count
            if end > SLOT_BYTES or not self._reserve(slot, end):
                continue
            offset = slot * SLOT_BYTES + begin
            self._write(array, offset)
            placed[name] = Placed(self.name, offset, count, array.shape)
            begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        return placed

    def _reserve(self, slot: int, count: int) -> bool:
        """Takes memory for the first bytes of a slot.

        To write without that would end the process with SIGBUS where `/dev/shm` is full.
        """
        if count > self._reserved[slot]:
            try:
                os.posix_fallocate(self._file, slot * SLOT_BYTES, count)
            except OSError:
                return False
            self._reserved[slot] = count
        return True

    def _write(self, array: NDArray[Any], offset: int) -> None:
        """Numbers as they are, bytes each with its length before it: the protocol's binary form."""
        memory = self._memory.buf
        assert memory is not None
        if array.dtype != np.object_:
            numbers = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            memory[offset : offset + array.nbytes] = numbers.data
            return
        for data in array.flat:
            struct.pack_into("<I", memory, offset, len(data))
            offset += 4
            memory[offset : offset + len(data)] = data
            offset += len(data)

    def _end(self) -> None:
        if self._closed and not self._lent and self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._memory.close()


def _large(model: contract.Model, rows: Sent) -> Rows:
    found = {tensor.name: rows.get(tensor.name) for tensor in model.inputs}
    return {
        name: array
        for name, array in found.items()
        if isinstance(array, np.ndarray) and _size(array) >= LEAST_BYTES
    }


def _size(array: NDArray[Any]) -> int:
    """Bytes of an array in the protocol's binary form."""
    if array.dtype != np.object_:
        return array.nbytes
    return sum(4 + len(data) for data in array.flat)


def _new_name() -> str:
    """`lensemble-<PID namespace>-<PID>-<start of the process>-<any>`: whose a region is."""
    pid = os.getpid()
    return "-".join((_PREFIX, _namespace(), str(pid), _started(pid), secrets.token_hex(4)))


def _of_dead_client(name: str) -> bool:
    """Whether a region is that of a process that ended, as far as it can be seen from here."""
    parts = name.split("-")
    if len(parts) != 5 or parts[0] != _PREFIX or parts[1] != _namespace():
        return False
    return parts[2].isdigit() and _started(int(parts[2])) != parts[3]


def _namespace() -> str:
    """Inode number of the PID namespace, in which process ids mean anything."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _started(pid: int) -> str:
    """When a process began, in clock ticks after boot (proc(5), field 22); empty if it ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
