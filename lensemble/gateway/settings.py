"""Settings of the gateway, from LENSEMBLE_GATEWAY_* variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
)

from lensemble_contract.errors import InvalidInputError

PREFIX = "LENSEMBLE_GATEWAY_"


def _listed(value: object) -> object:
    """`a, b` -> (`a`, `b`)."""
    if isinstance(value, str):
        return tuple(part.strip().lower() for part in value.split(",") if part.strip())
    return value


class GatewaySettings(BaseModel):
    """What the gateway needs to know; each field is the variable `LENSEMBLE_GATEWAY_<FIELD>`.

    Attributes:
        triton: Triton's gRPC address, `grpc://host:port`; `grpcs` is over TLS.
        triton_tls: Folder of certificates for that (`lensemble_contract.tls`).
        metrics: Triton's metrics, for what serves on which device.
        host: Where to listen. Beyond loopback, `keys` must be set.
        port: 0 takes a free one.
        tls: Folder with `tls.crt` and `tls.key`; None serves without TLS.
        mutual: Whether callers must show a certificate of that folder's `ca.crt`.
        keys: File of API keys (`lensemble keys`); None lets every caller in.
        in_flight: Requests under way at a time; one more is refused with 429.
        per_minute: Requests of one key in a minute; 0 sets no limit.
        body_bytes: Of one request.
        held_bytes: Of all requests under way; one that would pass it is refused with 429.
        body_s: Seconds that a caller may take to send one.
        items: In one request.
        timeout_s: Seconds for one request's work in Triton.
        remote_hosts: Hosts, such as `images.example.com`, whose pictures may be fetched over https;
            empty fetches none.
        remote_bytes: Of one fetched picture.
        remote_s: Seconds for one fetched picture, redirects included.
        chat: Base URL of an OpenAI-compatible chat server, such as `http://127.0.0.1:9000/v1`; None
            serves neither chat nor RAG.
        chat_key: Sent to it.
        chat_model: Of it, where a request names none.
        chat_s: Seconds that it may be silent.
        pictures: Folder of the corpus's pictures, which RAG shows to the chat server; None shows
            documents only.
        picture_field: Of a document: its picture's path in `pictures`.
        traces: Where to send OpenTelemetry's spans of requests, such as
            http://127.0.0.1:4318/v1/traces (OTLP over HTTP); None sends none.
        trace_every: One of so many requests is traced, and those whose caller traces them.
        access_log: Whether to log one line of JSON per request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    triton: str = "grpc://127.0.0.1:8001"
    triton_tls: Path | None = None
    metrics: str = "http://127.0.0.1:8002/metrics"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    tls: Path | None = None
    mutual: bool = False
    keys: Path | None = None
    in_flight: PositiveInt = 64
    per_minute: NonNegativeInt = 0
    body_bytes: PositiveInt = 64 * 1024 * 1024
    held_bytes: PositiveInt = 1024 * 1024 * 1024
    body_s: PositiveFloat = 30.0
    items: PositiveInt = 256
    timeout_s: PositiveFloat = 60.0
    remote_hosts: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    remote_bytes: PositiveInt = 20 * 1024 * 1024
    remote_s: PositiveFloat = 10.0
    chat: str | None = None
    chat_key: SecretStr | None = None
    chat_model: str | None = None
    chat_s: PositiveFloat = 120.0
    pictures: Path | None = None
    picture_field: str = "image"
    traces: str | None = None
    trace_every: PositiveInt = 1
    access_log: bool = True

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **given: Any) -> GatewaySettings:
        """Reads the settings from environment variables.

        Args:
            environ: The variables.
            **given: Fields that stand above the variables; None leaves the variable in force.

        Raises:
            InvalidInputError: There is a variable of no setting, or a value cannot be used.
        """
        said: dict[str, Any] = {
            name.removeprefix(PREFIX).lower(): value.strip()
            for name, value in environ.items()
            if name.startswith(PREFIX) and value.strip()
        }
        said |= {name: value for name, value in given.items() if value is not None}
        try:
            return cls(**said)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
            # The value itself may be a secret.
            raise InvalidInputError(first["msg"], field=name) from None

    def to_env(self) -> dict[str, str]:
        """The environment variables that `from_env` reads back into these settings."""
        said = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            elif isinstance(value, tuple):
                value = ",".join(value)
            if value is not None:
                said[PREFIX + name.upper()] = str(value)
        return said
