"""A folder beside its target, in which that is made before it takes the target's place."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".{}.lensemble-"


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Gives an empty folder; what is left of it at the end goes.

    The lock on it says that somebody is at work. One without was left behind by a process that was
    killed, and is removed by the next that makes the same target.

    Args:
        target: Absolute; missing parents are made.

    Raises:
        OSError: The folder cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = _PREFIX.format(target.name)
    for path in target.parent.iterdir():
        if path.name.startswith(prefix):
            _remove_if_left(path)
    made, lock = _new(target.parent, prefix)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _new(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        made.chmod(0o755)  # it will stand where others read
        try:
            lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # taken for left behind, before it was locked
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.exists():
            return made, lock
        os.close(lock)


def _remove_if_left(path: Path) -> None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # gone, or not ours
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
