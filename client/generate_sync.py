"""Generates the synchronous calls from the asynchronous ones: `_async/` -> `_sync/`.

python client/generate_sync.py           # writes lensemble_client/_sync
python client/generate_sync.py --check   # fails if _sync is not up to date
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

PACKAGE = Path(__file__).parent / "lensemble_client"
CONFIG = Path(__file__).parents[1] / "pyproject.toml"
# Names that differ between the two clients, beyond those that `unasync` knows.
NAMES = {
    "_async": "_sync",
    "tasks": "threads",
    "async_transports": "sync_transports",
    "AsyncBaseClient": "BaseClient",
    "AsyncHealthCalls": "HealthCalls",
    "AsyncSearchCalls": "SearchCalls",
    "AsyncStoreCalls": "StoreCalls",
    "AsyncTransport": "Transport",
    "AsyncGrpcTransport": "GrpcTransport",
    "AsyncHttpTransport": "HttpTransport",
}
HEADER = (
    "# Generated from lensemble_client/_async/{name} by `make generate`. Edit that file instead.\n"
)


def generate(target: Path) -> None:
    """Writes the generated modules into a folder.

    Args:
        target: The folder; created if missing.
    """
    sources = sorted(path for path in (PACKAGE / "_async").glob("*.py") if path.stem != "__init__")
    with tempfile.TemporaryDirectory() as folder:
        rule = unasync.Rule(f"{PACKAGE / '_async'}/", f"{folder}/", additional_replacements=NAMES)
        unasync.unasync_files([str(path) for path in sources], [rule])
        generated = {path.name: (Path(folder) / path.name).read_text() for path in sources}
    target.mkdir(exist_ok=True)
    summary = '"""The calls of `Client`, generated from `_async/`."""\n'
    (target / "__init__.py").write_text(HEADER.format(name="") + summary)
    for name, text in generated.items():
        (target / name).write_text(HEADER.format(name=name) + text)
    # Under the other names the imports have another order, which ruff repairs here. `make lint`
    # reports what ruff cannot repair.
    for command in (["check", "--fix", "--exit-zero"], ["format"]):
        subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--quiet", "--config", CONFIG, target],
            check=True,
        )


def outdated() -> list[str]:
    """Returns the names of generated modules that are missing, superfluous or out of date."""
    current = PACKAGE / "_sync"
    with tempfile.TemporaryDirectory(dir=PACKAGE.parent) as folder:
        fresh = Path(folder) / "_sync"
        generate(fresh)
        names = {path.name for path in (*current.glob("*.py"), *fresh.glob("*.py"))}
        return sorted(name for name in names if _text(current / name) != _text(fresh / name))


def _text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def main() -> None:
    """Writes the modules, or checks them."""
    parser = argparse.ArgumentParser(description="Generate the synchronous client.")
    parser.add_argument("--check", action="store_true", help="only check; fail if out of date")
    if not parser.parse_args().check:
        shutil.rmtree(PACKAGE / "_sync", ignore_errors=True)
        generate(PACKAGE / "_sync")
    elif names := outdated():
        raise SystemExit(f"not up to date, run `make generate`: {', '.join(names)}")


if __name__ == "__main__":
    main()
