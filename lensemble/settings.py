"""Settings of the served models; the only module of the data path that reads the environment.

Triton's model processes take no arguments, so settings travel as environment variables: `server`
writes them, the models read them, and a compose file sets them by hand.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError

PREFIX = "LENSEMBLE_"
DESCRIBE_PROMPT = (
    "Describe what is shown in one or two plain sentences, for a search index: things, actions, "
    "colours, and any writing. Answer with the description alone."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the models need to know; each field is the variable `LENSEMBLE_<FIELD>`.

    Attributes:
        checkpoint: Folder of the serving checkpoint.
        index: Folder of the index to search; None serves embeddings only.
        device: `auto` (what Triton assigns to the instance), `cpu`, or `cuda`.
        dtype: `auto`, `fp32` or `bf16`; see `precision`. Of the engine `torch`.
        engine: What computes the vectors: `torch`, `onnx` (ONNX Runtime), or `auto`: on CPUs with
            graphs whichever is faster at the same vectors (`engines`), else `torch`.
        onnx: Folder of the graphs that ONNX Runtime runs, as `python -m lensemble_export onnx`
            writes it; their precision is theirs. None looks for `onnx` in the checkpoint's folder.
        batch_tokens: Tokens in one micro-batch of the encoder, pictures' tokens included; 0 goes
            by the device.
        batch_patches: Patches in one micro-batch of the encoder; 0 goes by the device.
        threads: CPU threads of the encoder, at most: small passes take one where more do not pay
            (`threads`); 0 shares out the cores that the process may use.
        encoder_instances: Processes with a model of their own, on GPUs for each of them. On CPUs
            several serve more callers of a small model, and a lone caller later.
        preprocess_instances: Processes that prepare items; 0 goes by the cores (`instances`).
        jpeg: `full`, or `scaled`: JPEGs that are reduced to a half or less are decoded at 1/2, 1/4
            or 1/8 of their size. Faster for large photographs, and not quite the same vectors.
        cache_mib: MiB of vectors that the encoder remembers, by content; 0 remembers none.
        writes: `on` lets callers write to the index, and makes an empty one where none is.
        compact_rows: Items written or removed since the last snapshot that start the next one; 0
            never does.
        clip: Folder or hub id (`name@revision` pins it) of a `CLIPModel`; None leaves the embedder
            `clip` out.
        sentence: Folder or hub id of a sentence-transformers model; None leaves the embedder
            `hybrid` out.
        chat_url: Base URL of an OpenAI-compatible server, such as http://127.0.0.1:9000/v1;
            `hybrid` needs it, and `chat_model`.
        chat_model: Name of the model there that describes pictures.
        chat_key: Sent to that server as a bearer token; None sends none. A secret: neither logged
            nor part of this object's text.
        describe_prompt: What the chat model is asked about pictures.
        describe_tokens: Longest description, in the chat model's tokens.
        chat_timeout_s: Seconds for a description, with all tries.
        chat_concurrency: Descriptions asked for at a time.
        max_wait_s: Seconds that a request without pictures may have to wait for the encoder; one
            that would wait longer is refused, with pictures at half of it (`admission`). 0 refuses
            none. Only where the server is watched over.
        traces: Where to send OpenTelemetry's spans of requests, such as
            http://127.0.0.1:4318/v1/traces (OTLP over HTTP); None sends none.
        trace_every: One of so many requests is traced.
        heartbeats: Folder in which the models' processes note since when they work on a call
            (`heartbeat`); who watches over them sets it.
    """

    checkpoint: Path
    index: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    engine: str = "auto"
    onnx: Path | None = None
    batch_tokens: int = 0
    batch_patches: int = 0
    threads: int = 0
    encoder_instances: int = 1
    preprocess_instances: int = 0
    jpeg: str = "full"
    cache_mib: int = 0
    writes: str = "off"
    compact_rows: int = 20_000
    clip: str | None = None
    sentence: str | None = None
    chat_url: str | None = None
    chat_model: str | None = None
    chat_key: str | None = field(default=None, repr=False)
    describe_prompt: str = DESCRIBE_PROMPT
    describe_tokens: int = 128
    chat_timeout_s: float = 30.0
    chat_concurrency: int = 8
    max_wait_s: float = 4.0
    traces: str | None = None
    trace_every: int = 1
    heartbeats: Path | None = None

    def __post_init__(self) -> None:
        choices = {
            "device": ("auto", "cpu", "cuda"),
            "dtype": DTYPES,
            "engine": ENGINES,
            "jpeg": ("full", "scaled"),
            "writes": ("off", "on"),
        }
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise InvalidInputError(
                    f"{value!r} is not one of {', '.join(allowed)}", field=f"{PREFIX}{name.upper()}"
                )
        for name in _NOT_NEGATIVE:
            if (value := getattr(self, name)) < 0:
                raise InvalidInputError(f"{value} is negative", field=f"{PREFIX}{name.upper()}")
        for name in _POSITIVE:
            if not (value := getattr(self, name)) > 0:
                raise InvalidInputError(
                    f"{value}; expected more than 0", field=f"{PREFIX}{name.upper()}"
                )
        if self.sentence is not None:
            self._check_chat()

    def _check_chat(self) -> None:
        for name in ("chat_url", "chat_model"):
            if getattr(self, name) is None:
                raise InvalidInputError(
                    "not set; the embedder `hybrid` (LENSEMBLE_SENTENCE) needs it",
                    field=f"{PREFIX}{name.upper()}",
                )
        parts = urlsplit(self.chat_url or "")
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            # Without the URL: there may be a password in it.
            raise InvalidInputError(
                "not a URL that can be used; expected such as http://127.0.0.1:9000/v1, without a "
                "name or password (LENSEMBLE_CHAT_KEY has the key)",
                field=f"{PREFIX}CHAT_URL",
            )

    @property
    def embedders(self) -> tuple[str, ...]:
        """Embedders beside the native one, of `contract.OPTIONAL`."""
        wanted = {contract.HYBRID: self.sentence, contract.CLIP_EMBEDDER: self.clip}
        return tuple(name for name, model in wanted.items() if model is not None)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, **given: object) -> Settings:
        """Reads the settings from environment variables.

        Args:
            environ: The variables.
            **given: Fields that stand above the variables, as a command line's options do; None
                leaves the variable in force.

        Raises:
            InvalidInputError: `LENSEMBLE_CHECKPOINT` is missing, or a value cannot be used.
        """
        found: dict[str, Path | float | str] = {}
        for setting in fields(cls):
            name = setting.name
            variable = f"{PREFIX}{name.upper()}"
            option = given.get(name)
            if value := str(environ.get(variable, "") if option is None else option).strip():
                parse = _PARSERS.get(name, str)
                try:
                    found[name] = parse(value)
                except ValueError as error:
                    kind = "a number" if parse is float else "a whole number"
                    raise InvalidInputError(f"{value!r} is not {kind}", field=variable) from error
        if "checkpoint" not in found:
            raise InvalidInputError(
                "not set (nor --checkpoint); expected the folder of a serving checkpoint",
                field=f"{PREFIX}CHECKPOINT",
            )
        return cls(**found)  # type: ignore[arg-type]

    def to_env(self) -> dict[str, str]:
        """The environment variables that `from_env` reads back into these settings."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        return {
            f"{PREFIX}{name.upper()}": str(value)
            for name, value in values.items()
            if value is not None
        }

    @property
    def graphs(self) -> Path:
        """Folder of the ONNX graphs, which need not be there."""
        return self.onnx or self.checkpoint / "onnx"

    @property
    def cpu_threads(self) -> int:
        """Threads for the encoder, at least 1."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.encoder_instances)


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that look like settings, and that nobody reads: misspelt ones.

    Args:
        environ: The variables.
    """
    known = {f"{PREFIX}{setting.name.upper()}" for setting in fields(Settings)}
    others = tuple(f"{PREFIX}{name}" for name in _OTHERS)
    return [
        name
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known and not name.startswith(others)
    ]


_OTHERS = ("GATEWAY_", "URL", "TLS")
"""Beginnings of variables that are of the gateway and of clients."""

_NOT_NEGATIVE = (
    "batch_tokens",
    "batch_patches",
    "threads",
    "preprocess_instances",
    "cache_mib",
    "compact_rows",
    "max_wait_s",
)
_POSITIVE = (
    "encoder_instances",
    "describe_tokens",
    "chat_timeout_s",
    "chat_concurrency",
    "trace_every",
)

DTYPES = ("auto", "fp32", "bf16")
ENGINES = ("auto", "torch", "onnx")
_PARSERS: dict[str, Callable[[str], Path | float | str]] = {
    "checkpoint": Path,
    "index": Path,
    "onnx": Path,
    "heartbeats": Path,
    "batch_tokens": int,
    "batch_patches": int,
    "threads": int,
    "encoder_instances": int,
    "preprocess_instances": int,
    "cache_mib": int,
    "compact_rows": int,
    "describe_tokens": int,
    "chat_timeout_s": float,
    "max_wait_s": float,
    "chat_concurrency": int,
    "trace_every": int,
}
