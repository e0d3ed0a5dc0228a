"""Settings of the served models.

Triton's model processes take no arguments, so settings travel as environment variables:
`lensemble.operations.tritonserver` writes them, the models read them, and a compose file sets them
directly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from lensemble.settings_base import SettingsBase
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError

PREFIX = "LENSEMBLE_"
DESCRIBE_PROMPT = (
    "Describe what is shown in one or two plain sentences, for a search index: things, actions, "
    "colours, and any writing. Answer with the description alone."
)

# A pass with more tokens or patches than this gains nothing. While a GPU's engine loads, it fills a
# whole pass, so a far larger one would fill the host's memory before the GPU refuses it.
_MAX_BUDGET = 1_048_576
# Each process takes seconds of CPU time and half a gigabyte or more while it starts.
_MAX_PROCESSES = 256

Budget = Annotated[int, Field(ge=0, le=_MAX_BUDGET)]

# Variables with the same prefix that the gateway and the clients read.
_OTHER_PROGRAMS = ("GATEWAY_", "URL", "TLS")


class Settings(SettingsBase):
    """Settings of the models; each field is the environment variable `LENSEMBLE_<FIELD>`."""

    prefix: ClassVar[str] = PREFIX
    refuses_unknown: ClassVar[bool] = False  # `lensemble doctor` reports them
    remedies: ClassVar[Mapping[str, str]] = {
        "checkpoint": "set it to the folder of a serving checkpoint, or give --checkpoint"
    }

    checkpoint: Path = Field(description="Folder of the serving checkpoint.")
    index: Path | None = Field(
        default=None,
        description="Folder of the index to search. Not set: only embeddings are served.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Device of the models. `auto` takes what Triton assigns to each instance.",
    )
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description=(
            "Precision of the PyTorch engine. `auto` takes bf16 on GPUs; on CPUs it takes bf16 if "
            "that is faster and gives the same vectors as fp32."
        ),
    )
    engine: Literal["auto", "torch", "onnx"] = Field(
        default="auto",
        description=(
            "Engine that computes the vectors: PyTorch or ONNX Runtime. `auto` takes PyTorch, "
            "except on CPUs with exported graphs: there it takes whichever engine is faster for "
            "the same vectors."
        ),
    )
    gpu_kernels: Literal["auto", "on", "off"] = Field(
        default="auto",
        description=(
            "Whether the PyTorch engine uses its own kernels on a GPU, which Triton's compiler "
            "builds at the first start. Kernels that do not agree with PyTorch on this GPU are "
            "never used. `auto` also requires that they make a pass faster; `on` does not time "
            "them."
        ),
    )
    onnx: Path | None = Field(
        default=None,
        description=(
            "Folder of the ONNX graphs, as `python -m lensemble_export onnx` writes it; the graphs "
            "determine their precision. Not set: the folder `onnx` in the checkpoint's folder."
        ),
    )
    gpu_graphs: Literal["auto", "off"] = Field(
        default="auto",
        description=(
            "Whether the PyTorch engine records CUDA graphs for passes of short texts on a GPU. "
            "`auto` uses those that give the vectors of an ordinary pass."
        ),
    )
    batch_tokens: Budget = Field(
        default=0,
        description=(
            "Largest number of tokens in one micro-batch of the encoder, including the tokens of "
            f"pictures, at most {_MAX_BUDGET}. 0 chooses by the device. On GPUs a budget that does "
            "not fit into the free memory is halved until it does."
        ),
    )
    batch_patches: Budget = Field(
        default=0,
        description=(
            "Largest number of patches in one micro-batch of the encoder. 0 chooses by the device. "
            "It has the limit of `LENSEMBLE_BATCH_TOKENS`, and is halved like it on GPUs."
        ),
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0,
        description=(
            "Largest number of CPU threads of one encoder process; a small pass uses one thread "
            "where more do not make it faster. 0 divides the available cores among the encoder "
            "processes."
        ),
    )
    encoder_instances: Annotated[int, Field(gt=0, le=_MAX_PROCESSES)] = Field(
        default=1,
        description=(
            "Number of encoder processes, each with its own copy of the model; on GPUs, per GPU. "
            "On CPUs, several processes serve more callers of a small model, but a single caller "
            "waits longer."
        ),
    )
    preprocess_instances: Annotated[int, Field(ge=0, le=_MAX_PROCESSES)] = Field(
        default=0,
        description=(
            "Number of preprocessing processes. 0 takes one per available core, at least 2 and at "
            "most 8."
        ),
    )
    jpeg: Literal["full", "scaled"] = Field(
        default="full",
        description=(
            "How JPEG files are decoded. `scaled` decodes those that are reduced to half their "
            "size or less at 1/2, 1/4 or 1/8 of their size: faster for large photographs, but the "
            "vectors differ slightly."
        ),
    )
    cache_mib: NonNegativeInt = Field(
        default=0,
        description="Size of the encoder's vector cache in MiB. 0 turns the cache off.",
    )
    writes: Literal["off", "on"] = Field(
        default="off",
        description=(
            "Whether callers may write to the index. `on` also creates an empty index if there is "
            "none."
        ),
    )
    compact_rows: NonNegativeInt = Field(
        default=20_000,
        description=(
            "Number of items written or removed since the last snapshot after which the next "
            "compaction starts. 0 never starts one."
        ),
    )
    clip: str | None = Field(
        default=None,
        description=(
            "Folder or Hugging Face id of a `CLIPModel`; `name@revision` pins a revision. Not "
            "set: the embedder `clip` is not served."
        ),
    )
    sentence: str | None = Field(
        default=None,
        description=(
            "Folder or Hugging Face id of a sentence-transformers model. Not set: the embedder "
            "`hybrid` is not served."
        ),
    )
    chat_url: str | None = Field(
        default=None,
        description=(
            "Base URL of the OpenAI-compatible server that describes pictures, such as "
            "http://127.0.0.1:9000/v1. Required by the embedder `hybrid`."
        ),
    )
    chat_model: str | None = Field(
        default=None,
        description=(
            "Name of the model on that server that describes pictures. Required by the embedder "
            "`hybrid`."
        ),
    )
    chat_key: SecretStr | None = Field(
        default=None,
        description=(
            "Secret that is sent to that server as a bearer token. Not set: no token is sent."
        ),
    )
    describe_prompt: str = Field(
        default=DESCRIBE_PROMPT,
        description="Prompt with which the chat model is asked for a description.",
    )
    describe_tokens: PositiveInt = Field(
        default=128,
        description="Largest length of a description, in tokens of the chat model.",
    )
    chat_timeout_s: PositiveFloat = Field(
        default=30.0,
        description="Time limit of one description in seconds, including all retries.",
    )
    chat_concurrency: PositiveInt = Field(
        default=8,
        description="Largest number of descriptions that are requested at the same time.",
    )
    max_wait_s: NonNegativeFloat = Field(
        default=4.0,
        description=(
            "Longest time in seconds that a text may wait for the encoder; requests that would "
            "wait longer are refused. Pictures and bulk requests are refused at half of it. 0 "
            "refuses none. It has an effect only if the server runs under the supervisor."
        ),
    )
    start_timeout_s: PositiveFloat = Field(
        default=180.0,
        description=(
            "Time in seconds within which all models must be ready at a start. Large weights on a "
            "slow disk, several encoder processes, and TensorRT's first start take longer."
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
        description="Trace one request in this many; 1 traces every request.",
    )
    heartbeats: Path | None = Field(
        default=None,
        description=(
            "Folder of the small files in which the model processes and the supervisor write "
            "heartbeats and waiting times. The supervisor sets it; do not set it yourself."
        ),
    )

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        """`hybrid` needs a chat server, and its URL must not hold a password."""
        if self.sentence is None:
            return self
        for name in ("chat_url", "chat_model"):
            if getattr(self, name) is None:
                raise InvalidInputError(
                    "not set; the embedder `hybrid` (LENSEMBLE_SENTENCE) needs it",
                    field=self.variable(name),
                )
        parts = urlsplit(self.chat_url or "")
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            # The message does not quote the URL: there may be a password in it.
            raise InvalidInputError(
                "not a usable URL; expected one such as http://127.0.0.1:9000/v1, without user "
                "name and password (set LENSEMBLE_CHAT_KEY instead)",
                field=self.variable("chat_url"),
            )
        return self

    @property
    def embedders(self) -> tuple[str, ...]:
        """Names of the embedders that are served beside the native one."""
        models = {contract.HYBRID: self.sentence, contract.CLIP_EMBEDDER: self.clip}
        return tuple(name for name, model in models.items() if model is not None)

    @property
    def graphs(self) -> Path:
        """Folder of the ONNX graphs; it need not exist."""
        return self.onnx or self.checkpoint / "onnx"

    @property
    def cpu_threads(self) -> int:
        """Number of threads for one encoder process, at least 1."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.encoder_instances)


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that begin like a setting but that no program of Lensemble reads.

    They are probably misspelt.

    Args:
        environ: the environment variables.
    """
    known = {Settings.variable(name) for name in Settings.model_fields}
    others = tuple(f"{PREFIX}{name}" for name in _OTHER_PROGRAMS)
    return [
        name
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known and not name.startswith(others)
    ]
