"""Staging folders: something is built beside its target, and then takes the target's place."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensemble_contract.errors import StorageError

_PREFIX = ".{}.lensemble-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of renameat2(2)


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """Makes an empty folder beside the target; if it still exists at the end, it is deleted.

    The folder is locked while it is in use. A killed process leaves its folder behind, but without
    a lock, so the next call for the same target deletes it.

    Args:
        target: absolute path; missing parents are created.

    Raises:
        OSError: The folder cannot be created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = _PREFIX.format(target.name)
    for path in target.parent.iterdir():
        if path.name.startswith(prefix):
            _remove_if_unlocked(path)
    staging, lock = _create_locked(target.parent, prefix)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def put_in_place(staging: Path, target: Path, keep: Path | None = None) -> None:
    """Moves a finished folder to its target in one step.

    If the target exists, the two folders are exchanged, so that the target exists at every moment.

    Args:
        staging: the finished folder.
        target: its place, beside it.
        keep: where the folder that was at the target remains; a folder that is there already is
            deleted. None leaves it in the place of the finished folder.

    Raises:
        StorageError: The file system cannot exchange two folders.
    """
    if not target.exists():
        staging.rename(target)
        return
    if keep is None:
        _exchange(staging, target)
        return
    shutil.rmtree(keep, ignore_errors=True)
    # The finished folder goes to `keep` before the exchange. Otherwise, a process that is killed
    # after the exchange would leave the old one in a staging folder, which the next call deletes.
    staging.rename(keep)
    try:
        _exchange(keep, target)
    except BaseException:
        keep.rename(staging)
        raise


def _exchange(staging: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(staging), _AT_FDCWD, bytes(target), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise StorageError(
            f"cannot replace {str(target)!r}: {os.strerror(code)}; remove that folder first",
            field="index",
        )


def _create_locked(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        staging.chmod(0o755)  # mkdtemp's mode would keep other users from reading the target
        try:
            lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another process deleted it before it was locked
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if staging.exists():
            return staging, lock
        os.close(lock)


def _remove_if_unlocked(path: Path) -> None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # deleted meanwhile, or not a folder of ours
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
