"""Settings of the served models; the only module of the data path that reads the environment.

Triton's model processes take no arguments, so settings travel as environment variables: `server`
writes them, the models read them, and a compose file sets them by hand.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from lensemble_client.errors import InvalidInputError

PREFIX = "LENSEMBLE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the models need to know; each field is the variable `LENSEMBLE_<FIELD>`.

    Attributes:
        checkpoint: Folder of the serving checkpoint.
        index: Folder of the index to search; None serves embeddings only.
        device: `auto` (what Triton assigns to the instance), `cpu`, or `cuda`.
        dtype: `auto`, `fp32` or `bf16`; see `precision`.
        batch_tokens: Tokens in one micro-batch of the encoder, pictures' tokens included; 0 goes
            by the device.
        batch_patches: Patches in one micro-batch of the encoder; 0 goes by the device.
        threads: CPU threads of the encoder; 0 is one per core that the process may use.
        writes: `on` lets callers write to the index, and makes an empty one where none is.
        compact_rows: Items written or removed since the last snapshot that start the next one; 0
            never does.
    """

    checkpoint: Path
    index: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_tokens: int = 0
    batch_patches: int = 0
    threads: int = 0
    writes: str = "off"
    compact_rows: int = 20_000

    def __post_init__(self) -> None:
        choices = {"device": ("auto", "cpu", "cuda"), "dtype": DTYPES, "writes": ("off", "on")}
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise InvalidInputError(
                    f"{value!r} is not one of {', '.join(allowed)}", field=f"{PREFIX}{name.upper()}"
                )
        for name in ("batch_tokens", "batch_patches", "threads", "compact_rows"):
            if (value := getattr(self, name)) < 0:
                raise InvalidInputError(f"{value} is negative", field=f"{PREFIX}{name.upper()}")

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
        found: dict[str, Path | int | str] = {}
        for field in fields(cls):
            variable = f"{PREFIX}{field.name.upper()}"
            option = given.get(field.name)
            if value := str(environ.get(variable, "") if option is None else option).strip():
                try:
                    found[field.name] = _PARSERS.get(field.name, str)(value)
                except ValueError as error:
                    raise InvalidInputError(
                        f"{value!r} is not a whole number", field=variable
                    ) from error
        if "checkpoint" not in found:
            raise InvalidInputError(
                "not set (nor --checkpoint); expected the folder of a serving checkpoint",
                field=f"{PREFIX}CHECKPOINT",
            )
        return cls(**found)  # type: ignore[arg-type]

    def to_env(self) -> dict[str, str]:
        """The environment variables that `from_env` reads back into these settings."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            f"{PREFIX}{name.upper()}": str(value)
            for name, value in values.items()
            if value is not None
        }

    @property
    def cpu_threads(self) -> int:
        """Threads for the encoder, at least 1."""
        return self.threads or len(os.sched_getaffinity(0))


DTYPES = ("auto", "fp32", "bf16")
_PARSERS = {
    "checkpoint": Path,
    "index": Path,
    "batch_tokens": int,
    "batch_patches": int,
    "threads": int,
    "compact_rows": int,
}
