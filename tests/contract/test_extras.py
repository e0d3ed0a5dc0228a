"""What the extras of pyproject.toml install together."""

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.paths import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BAD_CHOICES = ("faiss-gpu", "gpu", "search,search-gpu", "")
CHOICES = {"search": "faiss-cpu", "search-gpu": "faiss-gpu"}
# These serve or search, so they need one FAISS.
WITH_FAISS = {"search", "search-gpu", "local-server", "train", "dev"}


def packages(extra: str) -> set[str]:
    """Names of the packages that an extra installs, through other extras, too."""
    found = set()
    for requirement in map(Requirement, EXTRAS[extra]):
        found.add(requirement.name)
        if requirement.name == "lensemble":
            found |= {name for one in requirement.extras for name in packages(one)}
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_installs_both_builds_of_faiss(extra):
    """Both install the folder `faiss`: the later one overwrites a part of the earlier one."""
    faiss = packages(extra) & set(CHOICES.values())
    assert len(faiss) == (extra in WITH_FAISS), faiss


def test_each_choice_of_faiss_has_an_extra():
    for extra, package in CHOICES.items():
        assert package in packages(extra)
    (gpu,) = map(Requirement, EXTRAS["search-gpu"])
    assert "1.14.9" not in gpu.specifier and "1.15.1" in gpu.specifier


def test_extras_that_the_image_installs_leave_the_choice_open():
    dockerfile = (ROOT / "Dockerfile").read_text()
    default = re.search(r"^ARG SEARCH=(\S+)$", dockerfile, re.MULTILINE).group(1)
    assert default in CHOICES
    (line,) = re.findall(r"'?\"?\.\[(serve\S+)\]", dockerfile)
    extras = line.split(",")
    assert extras.count("${SEARCH}") == 1
    others = [extra for extra in extras if extra != "${SEARCH}"]
    assert not {name for extra in others for name in packages(extra)} & set(CHOICES.values())


@pytest.mark.parametrize(
    ("search", "works"),
    [*((extra, True) for extra in CHOICES), *((bad, False) for bad in BAD_CHOICES)],
)
def test_image_is_not_built_with_another_choice_of_faiss(search, works):
    """pip only warns about unknown extras: the image would have no FAISS, or two."""
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    checks = [line for line in dockerfile.splitlines() if line.startswith("RUN case")]
    assert checks and dockerfile.index(checks[0]) < dockerfile.index(",${SEARCH}]")
    completed = subprocess.run(
        ["sh", "-c", checks[0].removeprefix("RUN ")],
        env={"SEARCH": search},
        capture_output=True,
        text=True,
    )
    assert (completed.returncode == 0) == works
    assert works or f"'{search}' is not search or search-gpu" in completed.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/corpus.md"])
def test_extras_that_the_docs_name_exist_and_are_no_two_builds_of_faiss(page):
    named = re.findall(r"'\.\[([a-z,-]+)\]'", (ROOT / page).read_text().replace("\n", " "))
    assert named
    for extras in named:
        installed = {name for extra in extras.split(",") for name in packages(extra)}
        assert not set(CHOICES.values()) <= installed, extras
