"""README and docs against the repository: links, paths, the tree, metrics and limits."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from lensemble.gateway.observability.metrics import Metrics
from lensemble.index.snapshots.kinds import KINDS
from lensemble.operations.liveness import REASONS
from lensemble.operations.supervisor import FAILED_START
from lensemble.scheduling.lanes import LANES
from lensemble_client import Client
from lensemble_contract import contract
from lensemble_contract.documents import MAX_DOCUMENT_BYTES
from lensemble_contract.index_checks import MAX_ID_BYTES
from tests.paths import ROOT

TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()
FOLDERS = {str(parent) for name in TRACKED for parent in Path(name).parents} - {"."}
PAGES = sorted(name for name in TRACKED if name.endswith(".md"))
TOP = {name.partition("/")[0] for name in FOLDERS}
# The template of the demo checkpoint's card, which is tested as the card that it becomes.
PAGES.remove("demo/training/model_card.md")
# The log of changes names paths that were removed.
HISTORICAL = {"CHANGELOG.md"}
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def prose(page: str) -> str:
    """Returns a page without its fenced blocks, in which `#` starts no heading."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """Returns the anchors that GitHub makes from a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / path if path else ROOT / page
        assert linked.exists(), f"{page} links {target}"
        if anchor:
            name = str(linked.resolve().relative_to(ROOT))
            assert anchor in anchors(name), f"{page} links {target}"


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"README.md"}))
def test_the_first_sentence_names_the_one_reader_of_the_page(page):
    first = prose(page).split("\n# ")[-1].lstrip("# ").split("\n\n")[1].split(". ")[0]
    assert first.startswith("For "), first
    assert len(re.findall(r"\b(?:users|operators|contributors)\b", first)) == 1, first


def paths_in(page: str) -> set[str]:
    """Finds paths of the repository: words that start with a top-level folder.

    Words in capitals and `*` are placeholders; of such a path the fixed part is returned.
    """
    pattern = rf"(?<![\w./:-])(?:{'|'.join(sorted(TOP))})/[\w./*-]*[\w*]/?"
    found = set()
    for path in re.findall(pattern, text_of(page)):
        parts = path.split("/")
        fixed = [part for part in parts if not re.search(r"\*|\b[A-Z]{3,}\b(?!\.md)", part)]
        found.add("/".join(fixed[: next((n for n, p in enumerate(parts) if p not in fixed), None)]))
    return found


@pytest.mark.parametrize("page", sorted(set(PAGES) - HISTORICAL))
def test_paths_of_the_repository_exist(page):
    for path in paths_in(page):
        if path.startswith("demo/dataset/images/"):
            continue  # tests of the commands read the pictures that they name
        found = (ROOT / path).exists() or (ROOT / f"{path}.py").exists()
        assert found, f"{page} names {path}"


def modules_in(page: str) -> set[str]:
    return set(re.findall(r"python -m ((?:lensemble\w*|benchmarks|demo)(?:\.\w+)*)", text_of(page)))


@pytest.mark.parametrize("page", sorted(set(PAGES) - HISTORICAL))
def test_modules_of_documented_commands_exist(page):
    roots = [ROOT, *(ROOT / folder for folder in ("cli", "client", "evaluation", "export"))]
    for module in modules_in(page):
        parts = Path(*module.split("."))
        files = (parts.with_suffix(".py"), parts / "__main__.py")
        assert any((root / file).is_file() for root in roots for file in files), (page, module)


def tree() -> dict[str, str]:
    """Parses README's tree: path -> description."""
    block = README.split("## What is where")[1].split("```")[1].strip("\n")
    found, stack = {}, []
    for line in block.splitlines():
        indent, name, description = re.fullmatch(r"( *)(\S+) {2,}(.+)", line).groups()
        stack = [*stack[: len(indent) // 2], name]
        found["".join(stack)] = description
    return found


def test_the_tree_names_what_exists():
    for path in tree():
        assert path.rstrip("/") in FOLDERS or path in TRACKED, path


def test_the_tree_has_every_folder_at_the_top():
    listed = {path for path in tree() if path.count("/") == 1 and path.endswith("/")}
    assert {name for name in TOP if not name.startswith(".")} == {p.rstrip("/") for p in listed}


def test_the_tree_has_every_sub_package_and_module_of_the_server():
    inside = {name for name in TRACKED if name.startswith("lensemble/") and name.endswith(".py")}
    packages = {f"{Path(name).parent}/" for name in inside if name.count("/") == 2}
    modules = {n for n in inside if n.count("/") == 1 and not n.endswith("__init__.py")}
    assert packages | modules <= set(tree())


def strings(folder: str) -> set[str]:
    """All string constants in the Python files of a folder."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def metrics_in(text: str) -> set[str]:
    """Finds names of metrics; `lensemble_index_{items,delta}` gives two."""
    found = set()
    for name in re.findall(r"`(lensemble_[a-z_]*(?:\{[a-z_,]+\}[a-z_]*)?)", text):
        choice = re.search(r"\{([a-z_,]+)\}(?!$)|\{([a-z_]+,[a-z_,]+)\}", name)
        if choice is None:
            found.add(name.partition("{")[0])
        else:
            options = (choice.group(1) or choice.group(2)).split(",")
            found |= {name[: choice.start()] + one + name[choice.end() :] for one in options}
    return found


def test_every_metric_that_the_docs_name_exists():
    packages = {"lensemble_client", "lensemble_contract", "lensemble_corpus", "lensemble_cli"}
    packages |= {"lensemble_export", "lensemble_evaluation"}
    # Counters of prometheus_client get `_total` when they are written out.
    known = {name for name in strings("lensemble") if name.startswith("lensemble_")}
    known |= {f"{name}_total" for name in known}
    known |= set(re.findall(r"# TYPE (\w+) ", Metrics().text().decode()))
    named = {name for page in PAGES for name in metrics_in(text_of(page))}
    named = {name for name in named if not name.startswith(tuple(packages))}
    assert len(named) > 20
    for name in named:  # `lensemble_lane_*` stands for all names that begin like this
        assert name in known or (
            name.endswith("_") and any(other.startswith(name) for other in known)
        ), name


def table_under(heading: str) -> list[list[str]]:
    section = OPERATIONS.split(heading)[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_reasons_of_restarts_are_those_of_the_code():
    listed = [cells[0].strip("`") for cells in table_under("### Why a server is restarted")]
    assert listed == [*REASONS, FAILED_START]


def labels_of(metric: str, label: str) -> set[str]:
    """Returns the values that operations.md lists for a label of a metric."""
    (cells,) = [
        row for row in table_under("### Labels") if row[:2] == [f"`{metric}`", f"`{label}`"]
    ]
    return set(re.findall(r"`(\w+)`", cells[2]))


def test_values_of_labels_are_those_of_the_code():
    reasons = set()
    for folder in ("lensemble/preprocess", "client/lensemble_contract"):
        for path in (ROOT / folder).rglob("*.py"):
            reasons |= set(re.findall(r'reason="(\w+)"', path.read_text()))
    assert labels_of("lensemble_errors_total", "reason") == reasons
    assert labels_of("lensemble_lane_waiting", "lane") == set(LANES)
    from lensemble.encoder.vector_cache.caching_encoder import VectorCounts

    assert labels_of("lensemble_vectors_total", "source") == set(VectorCounts.__dataclass_fields__)


def test_every_kind_of_index_is_on_the_page():
    page = text_of("docs/maintenance.md")
    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []


def test_limits_are_those_of_the_contract():
    page = text_of("docs/errors.md")
    limits = re.search(r"\*\*Limits:\*\*(.*?)\n\n", page, re.DOTALL).group(1)
    for number in (
        contract.MAX_BATCH_SIZE,
        contract.MAX_IMAGES_PER_ITEM,
        contract.MAX_IMAGE_BYTES // 2**20,
        contract.MAX_IMAGE_PIXELS // 10**6,
        contract.MAX_TEXT_BYTES // 2**20,
        contract.MAX_TOP_K,
        MAX_ID_BYTES,
        MAX_DOCUMENT_BYTES // 2**10,
    ):
        assert re.search(rf"\b{number:,}\b", limits), number


def test_messages_on_the_troubleshooting_page_are_those_of_the_code():
    """Each part of a quoted message, between its dots, is part of some string of the code."""
    texts = set()
    for folder in ("lensemble", "client", "cli", "export"):
        texts |= strings(folder)
    quoted = [
        message
        for line in text_of("docs/troubleshooting.md").splitlines()
        if line.startswith("| ") and not line.startswith("| pip:")
        for message in re.findall(r"`([^`]+)`", line.split(" | ")[0])
        if message.count(" ") > 1 and message != "No space left on device"
    ]
    assert len(quoted) > 15
    for part in {part for message in quoted for part in message.split(" ... ")}:
        assert any(part in text for text in texts), part


def test_extras_are_installed_from_the_checkout():
    """The package is not on PyPI, so `pip install 'lensemble[...]'` finds nothing."""
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    texts = {text_of(page) for page in PAGES}
    for folder in ("lensemble", "client", "cli", "evaluation", "export", "benchmarks", "demo"):
        texts |= strings(folder)
    named = re.findall(r"pip install ('[^'\n\[]*)\[([\w-]*)", "\n".join(texts))
    assert len(named) > 15
    for source, extra in named:
        assert source == "'.", (source, extra)
        assert extra in {*extras, ""}, extra  # "": the message has a placeholder there


def test_pages_that_the_code_names_exist():
    extensions = "|".join(("py", "toml", "yml", "pbtxt", "sh"))
    named = set()
    for path in TRACKED:
        if re.search(rf"\.({extensions})$|Dockerfile|Makefile", path) and (ROOT / path).is_file():
            named |= set(re.findall(r"\bdocs/\w+\.md\b", text_of(path)))
    assert named
    assert named <= set(PAGES)


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)])
def test_python_on_the_pages_is_valid(page):
    for block in python_blocks(page):
        ast.parse(block)


def test_the_example_of_a_fake_server_runs():
    (block,) = [block for block in python_blocks("docs/client.md") if "FakeServer" in block]
    exec(block, {})


def test_every_call_of_the_client_is_on_its_page():
    calls = {
        name for name in dir(Client) if not name.startswith("_") and callable(getattr(Client, name))
    }
    calls -= {"close", "infer", "run", "run_many"}
    assert {call for call in calls if f"`{call}`" not in text_of("docs/client.md")} == set()
