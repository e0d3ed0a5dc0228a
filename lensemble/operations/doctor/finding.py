"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, FAULT = "ok", "warning", "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: `OK`, `WARNING` or `FAULT`.
        subject: what was checked.
        text: what the check found.
        remedy: what to do about it; empty if there is nothing to do, or if the text says it.
    """

    level: str
    subject: str
    text: str
    remedy: str = ""
