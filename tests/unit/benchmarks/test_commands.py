"""Every `python -m` command of the docs names a module that exists."""

import re

import pytest

from tests.paths import ROOT

FOLDERS = ("benchmarks", "demo", "docs", "tests")
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "Makefile"]
COMMAND = re.compile(r"python -m ((?:benchmarks|demo)(?:\.\w+)*)(?![\w.]*<)")


def documented_modules() -> dict[str, str]:
    """Module -> a file that names it in a command."""
    files = [path for path in FILES if path.is_file()]
    for folder in FOLDERS:
        files += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".md", ".py", ".sh")]
    return {
        module: str(path.relative_to(ROOT))
        for path in files
        for module in COMMAND.findall(path.read_text())
    }


@pytest.mark.parametrize(("module", "file"), sorted(documented_modules().items()))
def test_command_names_a_module_that_runs(module, file):
    path = ROOT.joinpath(*module.split("."))
    source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert source.is_file(), f"{file} documents `python -m {module}`"
    assert '__name__ == "__main__"' in source.read_text(), f"`python -m {module}` does nothing"
