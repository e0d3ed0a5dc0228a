"""Who may import whom, and what the light install may need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {
    "lensemble",
    "lensemble_client",
    "lensemble_evaluation",
    "lensemble_export",
    "lensemble_training",
    "benchmarks",
    "tests",
}
ALLOWED = {
    "lensemble": {"lensemble", "lensemble_client"},
    "evaluation/lensemble_evaluation": {"lensemble_evaluation", "lensemble_client"},
    "training/lensemble_training": OURS - {"benchmarks", "tests"},
    "export/lensemble_export": {"lensemble_export", "lensemble", "lensemble_client"},
    "model_repository": {"lensemble"},
    "embedders": {"lensemble"},
}
COMMANDS = (
    "cli.py",
    "cli_compare.py",
    "cli_corpus.py",
    "cli_gateway.py",
    "cli_index.py",
    "cli_up.py",
    "cli_watch.py",
)
HEAVY = (
    "torch",
    "transformers",
    "faiss",
    "tokenizers",
    "matplotlib",
    "pyarrow",
    *sorted(OURS - {"lensemble_client"}),
)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", ALLOWED)
def test_layer_imports_only_what_lies_below_it(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert imported(path) & OURS <= ALLOWED[folder], path


def test_client_stands_alone_but_for_commands_that_need_more():
    for path in (ROOT / "client").rglob("*.py"):
        if path.name not in COMMANDS:
            assert imported(path) & OURS <= {"lensemble_client"}, path


def test_only_one_module_imports_tritons_backend():
    found = [
        path.name
        for path in (ROOT / "lensemble").rglob("*.py")
        if "triton_python_backend_utils" in imported(path)
    ]
    assert found == ["triton.py"]


def test_client_imports_without_torch():
    code = "import sys, lensemble_client, lensemble_client.cli; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(ran.stdout.split())


def test_only_config_reads_the_environment():
    for folder in ("lensemble", "evaluation", "export", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            # These two hand it to their children.
            if path.name not in ("config.py", "server.py", "background.py"):
                assert "os.environ" not in path.read_text(), path


def test_files_stay_readable():
    for folder in ("client", "evaluation", "training", "benchmarks", "tests", *ALLOWED):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 500, path
