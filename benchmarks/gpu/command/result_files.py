"""The result files of a run: which step writes which file, and how it is written.

A run may hand back eight files: six of JSON, `run.log` and `profile.txt`. So some steps share a
file. Each row is on the disk as soon as it was measured, and a file is replaced as a whole, so a
step that is killed leaves valid JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILES = {
    "command": "run.json",
    "preflight": "run.json",
    "pictures": "run.json",
    "profile": "run.json",
    "smoke": "right.json",
    "right": "right.json",
    "weights": "encoder.json",
    "ceiling": "encoder.json",
    "encoder": "encoder.json",
    "variants": "variants.json",
    "search": "encoder.json",
    "peers": "peers.json",
    "served": "served.json",
}
LOG, PROFILE = "run.log", "profile.txt"
MAX_FILES = 8


def write_section(out: Path, step: str, content: Mapping[str, Any]) -> None:
    """Writes one step's part of its result file; the parts of other steps stay.

    Args:
        out: Folder of the results; made if it is missing.
        step: A key of `FILES`.
        content: What the part contains from now on.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # a background step may write at the same time
        path = out / FILES[step]
        sections = json.loads(path.read_text()) if path.is_file() else {}
        sections[step] = dict(content)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(sections, indent=2) + "\n")
        unfinished.replace(path)
    finally:
        os.close(folder)


def read_section(out: Path, step: str) -> dict[str, Any]:
    """Returns one step's part of its result file; empty if it wrote none.

    Args:
        out: Folder of the results.
        step: A key of `FILES`.
    """
    path = out / FILES[step]
    section: dict[str, Any] = json.loads(path.read_text()).get(step, {}) if path.is_file() else {}
    return section
