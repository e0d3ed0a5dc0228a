"""Certificates in a folder, with the names that Kubernetes gives a secret's files.

- `ca.crt`: whom to trust; without it, whom the system trusts.
- `tls.crt`, `tls.key`: one's own certificate, with what is between it and the authority's, and its
  key; both or neither.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from lensemble_contract.errors import InvalidInputError

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"


@dataclass(frozen=True, slots=True)
class Tls:
    """One side's certificates.

    Attributes:
        authority: File of certificates to trust; None trusts whom the system trusts.
        certificate: File of the own certificate; None has none.
        key: File of its key.
    """

    authority: Path | None
    certificate: Path | None
    key: Path | None

    @classmethod
    def of(cls, folder: Path | str | None) -> Tls:
        """What a folder has.

        Args:
            folder: None has nothing.

        Raises:
            InvalidInputError: It is no folder, it has nothing of this, or half of a pair.
        """
        if folder is None:
            return cls(None, None, None)
        there = {
            name: path if (path := Path(folder) / name).is_file() else None
            for name in (AUTHORITY, CERTIFICATE, KEY)
        }
        if not any(there.values()):
            raise InvalidInputError(
                f"no {AUTHORITY}, {CERTIFICATE} or {KEY} in {str(folder)!r}", field="tls"
            )
        if (there[CERTIFICATE] is None) != (there[KEY] is None):
            raise InvalidInputError(
                f"one of {CERTIFICATE} and {KEY} is missing in {str(folder)!r}", field="tls"
            )
        return cls(there[AUTHORITY], there[CERTIFICATE], there[KEY])

    def for_client(self) -> ssl.SSLContext:
        """Checks the server's certificate and name; shows the own certificate if there is one.

        Raises:
            InvalidInputError: A file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.authority)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInputError(f"{self}: {error}", field="tls") from error
        return context

    def grpc_options(self) -> dict[str, bool | str | None]:
        """For tritonclient's gRPC clients."""
        return {
            "ssl": True,
            "root_certificates": _text(self.authority),
            "certificate_chain": _text(self.certificate),
            "private_key": _text(self.key),
        }

    def for_server(self, *, mutual: bool) -> Tls:
        """These, if a server can use them.

        Args:
            mutual: Whether callers must have a certificate of `authority`.

        Raises:
            InvalidInputError: A file that it needs is missing or cannot be used.
        """
        if self.certificate is None:
            raise InvalidInputError(f"a server needs {CERTIFICATE} and {KEY}", field="tls")
        if mutual and self.authority is None:
            raise InvalidInputError(
                f"mutual TLS needs {AUTHORITY}, whose certificates callers have", field="tls"
            )
        self.for_client()  # reads the files, and whether certificate and key belong together
        return self


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
