"""Links without other than ASCII characters, for the paths that reach the model processes.

Triton's Python backend embeds an interpreter that reads the environment and opens files with the
encoding of the C locale, ASCII, whatever LANG or PYTHONUTF8 say. There, a path such as
`/home/josé/index` is text that pydantic, FAISS and the tokenizer cannot encode. So a model process
gets the path of a link in the server's own folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lensemble.settings import Settings

_FALLBACK = "/tmp"  # nosec B108


def make_server_folder(prefix: str) -> Path:
    """Makes a temporary folder whose path is ASCII, even if TMPDIR is not.

    Args:
        prefix: beginning of its name.
    """
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent if parent.isascii() else _FALLBACK))


def with_ascii_paths(
    environment: Mapping[str, str], settings: Settings, folder: Path
) -> dict[str, str]:
    """Replaces paths with other characters by links to them.

    Replaced are the settings that are paths, relative ones included, because the working folder
    counts, too; and all other variables that are the path of a folder, such as HOME, VIRTUAL_ENV
    and HF_HOME.

    Args:
        environment: environment variables of the model processes.
        settings: the settings that `environment` contains.
        folder: folder for the links, with an ASCII path; it is made if it is needed.
    """
    paths = {settings.variable(name) for name, value in settings if isinstance(value, Path)}
    # These are folders or ids on the hub.
    paths |= {
        settings.variable(name)
        for name, value in (("clip", settings.clip), ("sentence", settings.sentence))
        if value is not None and Path(value).expanduser().is_dir()
    }
    changed = dict(environment)
    for name, value in environment.items():
        is_path = name in paths or (value.startswith("/") and os.path.isdir(value))  # noqa: PTH112
        target = Path(value).expanduser().absolute() if is_path else Path()
        if not str(target).isascii():
            link = folder / name.lower()
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(target)
            changed[name] = str(link)
    return changed
