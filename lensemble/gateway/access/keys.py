"""API keys: a JSON file with the name, scope and SHA-256 of each key.

A key is 32 random bytes. It cannot be found from its SHA-256, so a slow password hash is not
needed, and whoever steals the file has no key. The file is read again when it changes, so a removed
key is refused from the next request on.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lensemble_contract.errors import InvalidInputError, StorageError

METRICS, READ, WRITE = "metrics", "read", "write"
# Each scope includes those before it: `metrics` may read the metrics, `read` may also embed, search
# and chat, and `write` may also change the index.
SCOPES = (METRICS, READ, WRITE)

_PREFIX = "lens-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of the file; it does not contain the key itself.

    Attributes:
        name: name of the key's owner, for the access log.
        scope: one of `SCOPES`.
        sha256: SHA-256 of the key, in hexadecimal.
    """

    name: str
    scope: str
    sha256: str

    def allows(self, scope: str) -> bool:
        """Whether the key's scope includes another scope."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class KeyFile:
    """The keys of a file; it is read again when it changes.

    Args:
        path: path of the file.

    Raises:
        InvalidInputError: The file is missing or unusable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._keys: list[Key] = []
        self._read_if_changed()

    def find(self, key: str) -> Key | None:
        """The entry of a key; None if the key is unknown.

        The key is compared with every entry in constant time, so the duration reveals nothing.

        Raises:
            InvalidInputError: The file has changed and is unusable now.
        """
        self._read_if_changed()
        sha256 = hash_of(key)
        match = None
        for entry in self._keys:
            if hmac.compare_digest(entry.sha256, sha256):
                match = entry
        return match

    def _read_if_changed(self) -> None:
        try:
            status = self._path.stat()
        except OSError as error:
            raise InvalidInputError(
                f"cannot read {str(self._path)!r}: {error.strerror}; make one with `lensemble keys "
                "add`",
                field="keys",
            ) from error
        version = (status.st_mtime_ns, status.st_ino, status.st_size)
        if version != self._version:
            self._keys, self._version = load(self._path), version


def hash_of(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def load(path: Path) -> list[Key]:
    """Reads the entries of a file; a missing file has none.

    Raises:
        InvalidInputError: The file is unreadable, or is not a file of keys.
    """
    try:
        content: Any = json.loads(path.read_text())
        keys = [Key(**entry) for entry in content["keys"]]
        for key in keys:
            if not (
                _NAME.fullmatch(key.name)
                and key.scope in SCOPES
                and re.fullmatch("[0-9a-f]{64}", key.sha256)
            ):
                raise ValueError("an entry has an invalid name, scope or hash")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"{str(path)!r} is not a file of keys ({error}); make one with `lensemble keys add`",
            field="keys",
        ) from error
    return keys


def add(path: Path, name: str, scope: str) -> str:
    """Makes a key and writes its hash into the file.

    Args:
        path: path of the file; a missing file is made, readable by its owner only.
        name: name of the key's owner: up to 64 letters, digits, dots, dashes and underscores.
        scope: one of `SCOPES`.

    Returns:
        The key. It is stored nowhere, so it cannot be shown again.

    Raises:
        InvalidInputError: The name is taken or invalid, the scope is unknown, or the file is
            unusable.
        StorageError: The file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r}; expected up to 64 letters, digits, dots, dashes and underscores",
            field="name",
        )
    if scope not in SCOPES:
        raise InvalidInputError(f"{scope!r}; expected one of {', '.join(SCOPES)}", field="scope")
    keys = load(path)
    if any(key.name == name for key in keys):
        raise InvalidInputError(f"{name!r} has a key already; remove it first", field="name")
    key = _PREFIX + secrets.token_urlsafe(32)
    _save(path, [*keys, Key(name, scope, hash_of(key))])
    return key


def remove(path: Path, name: str) -> None:
    """Removes a key from the file.

    Raises:
        InvalidInputError: No key has that name, or the file is unusable.
        StorageError: The file cannot be written.
    """
    keys = load(path)
    remaining = [key for key in keys if key.name != name]
    if len(remaining) == len(keys):
        raise InvalidInputError(
            f"no key {name!r} in {str(path)!r}; `lensemble keys list` shows the names", field="name"
        )
    _save(path, remaining)


def _save(path: Path, keys: list[Key]) -> None:
    text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=2) + "\n"
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp makes a file that only its owner can read.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise StorageError(f"cannot write {str(path)!r}: {error}", field="keys") from error
