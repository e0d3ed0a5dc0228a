"""API keys: who may call, and whether they may write.

A key is 32 random bytes, so its SHA-256 cannot be guessed back, and no slow hash is needed: what is
on the disk opens nothing. The file is read again when it changes, so a removed key is refused with
the next request.
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
SCOPES = (METRICS, READ, WRITE)
"""What a key may do, each all that stands before it, too: `metrics` is for Prometheus, `read`
embeds, searches and chats, `write` changes the index."""

_PREFIX = "lens-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without the key itself.

    Attributes:
        name: Whose it is; stands in the access log.
        scope: One of `SCOPES`.
        sha256: Of the key, in hexadecimal.
    """

    name: str
    scope: str
    sha256: str

    def may(self, scope: str) -> bool:
        """Whether it opens what needs this scope."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class KeyFile:
    """The keys of one file, as they are now.

    Args:
        path: Of the file.

    Raises:
        InvalidInputError: There is none, or it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: list[Key] = []
        self._follow()

    def find(self, key: str) -> Key | None:
        """The entry of a key; None if there is none.

        Every entry is compared, each in constant time: how long it takes tells nothing.

        Raises:
            InvalidInputError: The file was changed, and cannot be used any more.
        """
        self._follow()
        sent = hash_of(key)
        found = None
        for one in self._keys:
            if hmac.compare_digest(one.sha256, sent):
                found = one
        return found

    def _follow(self) -> None:
        try:
            state = self._path.stat()
        except OSError as error:
            raise InvalidInputError(
                f"cannot read {str(self._path)!r}: {error.strerror}; make one with `lensemble keys "
                "add`",
                field="keys",
            ) from error
        stamp = (state.st_mtime_ns, state.st_ino, state.st_size)
        if stamp != self._stamp:
            self._keys, self._stamp = load(self._path), stamp


def hash_of(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def load(path: Path) -> list[Key]:
    """Reads the keys of a file; one that is missing has none.

    Raises:
        InvalidInputError: It cannot be used.
    """
    try:
        said: Any = json.loads(path.read_text())
        keys = [Key(**one) for one in said["keys"]]
        if not all(
            _NAME.fullmatch(key.name)
            and key.scope in SCOPES
            and re.fullmatch("[0-9a-f]{64}", key.sha256)
            for key in keys
        ):
            raise ValueError("an entry has a name, scope or hash that cannot be")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"{str(path)!r} is not a file of keys ({error}); make one with `lensemble keys add`",
            field="keys",
        ) from error
    return keys


def add(path: Path, name: str, scope: str) -> str:
    """Makes a key and puts its hash into the file.

    Args:
        path: Of the file; it is made if it is missing, for its owner's eyes only.
        name: Whose it is: up to 64 letters, digits, dots, dashes and underscores.
        scope: One of `SCOPES`.

    Returns:
        The key. It is nowhere else.

    Raises:
        InvalidInputError: The name is taken or cannot be one, or the file cannot be used.
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
        InvalidInputError: There is none of that name, or the file cannot be used.
        StorageError: The file cannot be written.
    """
    keys = load(path)
    rest = [key for key in keys if key.name != name]
    if len(rest) == len(keys):
        raise InvalidInputError(f"no key {name!r} in {str(path)!r}", field="name")
    _save(path, rest)


def _save(path: Path, keys: list[Key]) -> None:
    text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=2) + "\n"
    made = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Its owner alone may read it: that is how mkstemp makes files.
        handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(made).replace(path)
    except OSError as error:
        if made is not None:
            Path(made).unlink(missing_ok=True)
        raise StorageError(f"cannot write {str(path)!r}: {error}", field="keys") from error
