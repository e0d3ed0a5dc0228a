"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
)

from lensemble.settings_base import SettingsBase

PREFIX = "LENSEMBLE_GATEWAY_"


def _split_hosts(value: object) -> object:
    """Splits text at commas: `a, B` -> (`a`, `b`)."""
    if isinstance(value, str):
        return tuple(part.strip().lower() for part in value.split(",") if part.strip())
    return value


class GatewaySettings(SettingsBase):
    """Settings of the gateway; each field is the environment variable `LENSEMBLE_GATEWAY_<FIELD>`.

    Raises:
        InvalidInputError: A value cannot be used.
    """

    prefix: ClassVar[str] = PREFIX
    refuses_unknown: ClassVar[bool] = True

    triton: str = Field(
        default="grpc://127.0.0.1:8001",
        description="Address of Triton's gRPC port, `grpc://host:port`; `grpcs://` uses TLS.",
    )
    triton_tls: Path | None = Field(
        default=None,
        description=(
            "Folder with the certificates for `grpcs://`. Not set: the certificates of the system."
        ),
    )
    metrics: str = Field(
        default="http://127.0.0.1:8002/metrics",
        description="URL of Triton's metrics, which name the served models and their devices.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. Beyond loopback, the file of API keys must be set.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8080,
        description="TCP port to listen on. 0 takes any free port.",
    )
    tls: Path | None = Field(
        default=None,
        description=(
            "Folder with `tls.crt` and `tls.key`. Not set: the gateway serves without TLS."
        ),
    )
    mutual: bool = Field(
        default=False,
        description=(
            "Whether callers must show a certificate that was signed by `ca.crt` in the folder of "
            "`LENSEMBLE_GATEWAY_TLS`."
        ),
    )
    keys: Path | None = Field(
        default=None,
        description="File of API keys, as `lensemble keys` writes it. Not set: no key is needed.",
    )
    in_flight: PositiveInt = Field(
        default=64,
        description=(
            "Largest number of requests that are processed at the same time; requests beyond it "
            "get status 429."
        ),
    )
    per_minute: NonNegativeInt = Field(
        default=0,
        description="Largest number of requests per minute with the same key. 0 sets no limit.",
    )
    body_bytes: PositiveInt = Field(
        default=64 * 1024 * 1024,
        description="Largest size of a request's body in bytes.",
    )
    held_bytes: PositiveInt = Field(
        default=1024 * 1024 * 1024,
        description=(
            "Largest total size in bytes of the bodies that are held at the same time; requests "
            "beyond it get status 429."
        ),
    )
    key_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.75,
        description=(
            "Largest share of `LENSEMBLE_GATEWAY_IN_FLIGHT` and `LENSEMBLE_GATEWAY_HELD_BYTES` "
            "that requests with the same key may take; 1 sets no limit."
        ),
    )
    head_s: PositiveFloat = Field(
        default=10.0,
        description=(
            "Time in seconds within which a caller must send the head of a request; then the "
            "connection is closed."
        ),
    )
    connections: PositiveInt = Field(
        default=512,
        description=(
            "Largest number of connections without a request in progress. If there are more, those "
            "that have waited longest are closed."
        ),
    )
    body_s: PositiveFloat = Field(
        default=30.0,
        description="Time in seconds within which a caller must send the body.",
    )
    items: PositiveInt = Field(
        default=256,
        description="Largest number of items in one request.",
    )
    timeout_s: PositiveFloat = Field(
        default=60.0,
        description="Time limit in seconds of a request's work in Triton.",
    )
    remote_hosts: Annotated[tuple[str, ...], BeforeValidator(_split_hosts)] = Field(
        default=(),
        description=(
            "Hosts from which pictures may be fetched over https, such as `images.example.com`. "
            "Empty: no picture is fetched."
        ),
    )
    remote_bytes: PositiveInt = Field(
        default=20 * 1024 * 1024,
        description="Largest size of a fetched picture in bytes.",
    )
    remote_s: PositiveFloat = Field(
        default=10.0,
        description="Time limit in seconds of one fetch, including redirects.",
    )
    chat: str | None = Field(
        default=None,
        description=(
            "Base URL of an OpenAI-compatible chat server, such as http://127.0.0.1:9000/v1. Not "
            "set: the gateway serves neither chat nor RAG."
        ),
    )
    chat_key: SecretStr | None = Field(
        default=None,
        description=(
            "Secret that is sent to the chat server as a bearer token. Not set: no token is sent."
        ),
    )
    chat_model: str | None = Field(
        default=None,
        description="Model of the chat server for requests that name no model.",
    )
    chat_s: PositiveFloat = Field(
        default=120.0,
        description=(
            "Longest time in seconds without data from the chat server before a request fails."
        ),
    )
    chat_total_s: PositiveFloat = Field(
        default=600.0,
        description="Time limit in seconds of one answer of the chat server, streams included.",
    )
    chat_bytes: PositiveInt = Field(
        default=16 * 1024 * 1024,
        description="Largest size in bytes of one answer of the chat server, streams included.",
    )
    pictures: Path | None = Field(
        default=None,
        description=(
            "Folder of the corpus's pictures, which RAG sends to the chat server. Not set: RAG "
            "sends documents only."
        ),
    )
    picture_field: str = Field(
        default="image",
        description=(
            "Field of a document with the path of its picture in the folder of "
            "`LENSEMBLE_GATEWAY_PICTURES`."
        ),
    )
    traces: str | None = Field(
        default=None,
        description=(
            "URL to which OpenTelemetry spans of requests are sent (OTLP over HTTP), such as "
            "http://127.0.0.1:4318/v1/traces. Not set: no spans are sent."
        ),
    )
    trace_every: PositiveInt = Field(
        default=1,
        description=(
            "One of this many requests is traced, and every request that its caller traces; 1 "
            "traces all requests."
        ),
    )
    access_log: bool = Field(
        default=True,
        description="Whether to log one line of JSON per request.",
    )
