"""The rules of the layout: imports run one way, folders are small, the client imports little."""

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.paths import ROOT

# From the lowest layer up: a package imports only packages before it, and itself.
PACKAGES = {
    "lensemble_contract": "client/lensemble_contract",
    "lensemble_client": "client/lensemble_client",
    "lensemble_corpus": "client/lensemble_corpus",
    "lensemble": "lensemble",
    "lensemble_export": "export/lensemble_export",
    "lensemble_evaluation": "evaluation/lensemble_evaluation",
    "lensemble_cli": "cli/lensemble_cli",
    "demo": "demo",
    "benchmarks": "benchmarks",
}
NOT_SHIPPED = ("demo", "benchmarks")
SHIPPED = {name: folder for name, folder in PACKAGES.items() if name not in NOT_SHIPPED}
# Sub-packages of `lensemble` that call servers, and so may use the client. The data path does not.
CALLERS = {"embedders", "gateway", "operations"}
LARGEST_FOLDER = 14
LONGEST_FILE = 500
HEAVY = {"torch", "transformers", "faiss", "tokenizers", "matplotlib", "pyarrow"}


def files(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts]


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports: modules, and what is taken from them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top(name: str) -> str:
    return name.split(".")[0]


def module(package: str, path: Path) -> tuple[str, ...]:
    """Dotted name of a file as parts: ("lensemble", "index", "storage", "store")."""
    inside = path.relative_to(ROOT / PACKAGES[package]).with_suffix("")
    parts = (package, *inside.parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def import_graphs(package: str) -> dict[tuple[str, ...], dict[str, set[str]]]:
    """For each folder of a package, which of its files and sub-folders import which others."""
    modules = {module(package, path): path for path in files(PACKAGES[package])}
    found: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for source, path in modules.items():
        for name in imports(path):
            target = tuple(name.split("."))
            while target and target not in modules:  # the last parts may name a class or a function
                target = target[:-1]
            if not target or target == source:
                continue
            depth = next(
                (n for n, (a, b) in enumerate(zip(source, target, strict=False)) if a != b),
                min(len(source), len(target)),
            )
            # A folder's `__init__` counts as one of the folder's files.
            one, other = (
                parts[depth] if len(parts) > depth else "__init__" for parts in (source, target)
            )
            found[source[:depth]][one].add(other)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_lies_below(package):
    order = list(PACKAGES)
    above = set(order[order.index(package) + 1 :]) | {"tests"}
    if package == "benchmarks":
        above = set()  # the fuzzer runs what the tests run
    if package == "lensemble_evaluation":
        above |= {"lensemble", "lensemble_export"}  # it asks a server, over the wire
    for path in files(PACKAGES[package]):
        assert not {top(name) for name in imports(path)} & above, path


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_inside_a_package_run_one_way(package):
    """At every level: between the sub-packages, and between the modules of one folder."""
    for folder, graph in import_graphs(package).items():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            pytest.fail(
                f"{'.'.join(folder)}: the imports form a cycle: {' -> '.join(error.args[1])}"
            )


def test_cycle_of_imports_is_found(tmp_path, monkeypatch):
    for name, text in {"a/x.py": "import p.b.y", "b/y.py": "import p.b.z", "b/z.py": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setitem(PACKAGES, "p", str(tmp_path))
    test_imports_inside_a_package_run_one_way("p")
    (tmp_path / "b/z.py").write_text("from p.a import x")
    with pytest.raises(pytest.fail.Exception, match="the imports form a cycle"):
        test_imports_inside_a_package_run_one_way("p")


def test_no_two_classes_share_a_name():
    """One name for one thing: a reader who searches for a class finds one."""
    places: dict[str, list[str]] = defaultdict(list)
    for folder in PACKAGES.values():
        for path in files(folder):
            if "_sync" in path.parts:  # generated from `_async`, which has the same names
                continue
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_only_what_calls_servers_uses_the_client():
    for path in files("lensemble"):
        if "lensemble_client" in {top(name) for name in imports(path)}:
            assert module("lensemble", path)[1] in CALLERS, path


def test_triton_models_import_stages_alone():
    for path in files("model_repository"):
        ours = {name for name in imports(path) if top(name) in PACKAGES}
        assert all(name.startswith("lensemble.stages.") for name in ours), path


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_are_small(package):
    counts: dict[Path, int] = defaultdict(int)
    for path in files(PACKAGES[package]):
        counts[path.parent] += path.name != "__init__.py"
    assert {folder: n for folder, n in counts.items() if n > LARGEST_FOLDER} == {}


@pytest.mark.parametrize("folder", [*PACKAGES.values(), "tests", "examples", "model_repository"])
def test_files_are_short(folder):
    for path in files(folder):
        assert len(path.read_text().splitlines()) <= LONGEST_FILE, path


def test_every_triton_model_is_in_the_repository():
    configs = {path.relative_to(ROOT) for path in ROOT.glob("*/**/config.pbtxt")}
    tracked = {path for path in configs if not path.parts[0].startswith(".")}
    assert tracked and {path.parts[0] for path in tracked} == {"model_repository"}


def test_one_module_imports_tritons_backend():
    found = [path for path in files("lensemble") if "triton_python_backend_utils" in imports(path)]
    assert [path.relative_to(ROOT).parts[:2] for path in found] == [("lensemble", "stages")]


def test_the_client_and_the_command_line_start_without_heavy_packages():
    heavy = HEAVY | (set(PACKAGES) - {"lensemble_contract", "lensemble_client"})
    for code in ("lensemble_client", "lensemble_cli.main"):
        ran = subprocess.run(
            [sys.executable, "-c", f"import sys, {code}; print(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        )
        allowed = {"lensemble_cli", "lensemble_corpus"} if code.startswith("lensemble_cli") else {}
        assert not (heavy - set(allowed)) & set(ran.stdout.split()), code


@pytest.mark.parametrize("folder", [*SHIPPED.values(), "demo"])
def test_settings_are_read_in_one_module_of_a_package(folder):
    """Others may hand the environment on to their children, but read no setting from it."""
    for path in files(folder):
        if path.name in ("settings.py", "options.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Subscript | ast.Call) else ""
            if text.startswith(("os.environ[", "os.environ.get(", "os.getenv(")):
                assert "LENSEMBLE" not in text and "PREFIX" not in text, (path, text)
