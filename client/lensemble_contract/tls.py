"""Finds certificates in a folder. The file names are those of a TLS secret in Kubernetes.

- `ca.crt`: certificates of the authorities to trust. Without it, those of the system are trusted.
- `tls.crt`, `tls.key`: the certificate of the client or server that uses the folder, followed by
  the intermediate certificates, and its private key. Both files exist, or neither does.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from lensemble_contract.errors import InvalidInputError

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates of one side of a connection.

    Attributes:
        authority: File with the authorities to trust; None to trust those of the system.
        certificate: File with the certificate to present; None if there is none.
        key: File with the private key of that certificate; None if there is none.
    """

    authority: Path | None
    certificate: Path | None
    key: Path | None

    @classmethod
    def from_folder(cls, folder: Path | str | None) -> Tls:
        """Finds the certificates in a folder.

        Args:
            folder: The folder; None for no certificates. Then the authorities of the system are
                trusted.

        Raises:
            InvalidInputError: The folder does not exist, has none of the three files, or has only
                one of certificate and key.
        """
        if folder is None:
            return cls(None, None, None)
        authority, certificate, key = (
            path if (path := Path(folder) / name).is_file() else None
            for name in (AUTHORITY, CERTIFICATE, KEY)
        )
        if authority is certificate is key is None:
            raise InvalidInputError(
                f"no {AUTHORITY}, {CERTIFICATE} or {KEY} in {str(folder)!r}", field="tls"
            )
        if (certificate is None) != (key is None):
            raise InvalidInputError(
                f"one of {CERTIFICATE} and {KEY} is missing in {str(folder)!r}; expected both or "
                "neither",
                field="tls",
            )
        return cls(authority, certificate, key)

    def client_context(self) -> ssl.SSLContext:
        """Returns the TLS context of a client.

        The client checks the server's certificate and host name, and presents its own certificate
        if there is one.

        Raises:
            InvalidInputError: A file cannot be read, or certificate and key do not belong together.
        """
        try:
            context = ssl.create_default_context(cafile=self.authority)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            paths = (self.authority, self.certificate, self.key)
            names = ", ".join(repr(str(path)) for path in paths if path is not None)
            raise InvalidInputError(
                f"cannot use {names or 'the authorities of the system'}: {error}", field="tls"
            ) from error
        return context

    def grpc_options(self) -> dict[str, bool | str | None]:
        """Returns the TLS arguments of tritonclient's gRPC clients."""
        return {
            "ssl": True,
            "root_certificates": _text(self.authority),
            "certificate_chain": _text(self.certificate),
            "private_key": _text(self.key),
        }

    def check_for_server(self, *, mutual: bool) -> Tls:
        """Checks that a server can use these certificates, and returns them.

        Args:
            mutual: Whether callers must present a certificate that `authority` signed.

        Raises:
            InvalidInputError: A file that the server needs is missing or cannot be used.
        """
        if self.certificate is None:
            raise InvalidInputError(f"a server needs {CERTIFICATE} and {KEY}", field="tls")
        if mutual and self.authority is None:
            raise InvalidInputError(
                f"mutual TLS needs {AUTHORITY}, which signed the callers' certificates", field="tls"
            )
        self.client_context()  # checks the files, and that certificate and key belong together
        return self


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
