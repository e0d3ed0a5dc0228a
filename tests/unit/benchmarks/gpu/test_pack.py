"""The bundle: what is in it, and the limit of one transfer."""

import subprocess
import tarfile
import zipfile

import pytest

from benchmarks.gpu import pack
from benchmarks.gpu.command.plan import PLAN
from benchmarks.gpu.command.result_files import write_section
from benchmarks.gpu.dry_run import broken


def test_pydantic_comes_with_the_version_of_its_core_that_it_takes(tmp_path):
    with zipfile.ZipFile(tmp_path / "pydantic-2.14.4-py3-none-any.whl", "w") as wheel:
        lines = ["Name: pydantic", "Requires-Dist: annotated-types>=0.6", "Requires-Dist: "]
        wheel.writestr(
            "pydantic-2.14.4.dist-info/METADATA", "\n".join(lines) + "pydantic-core==2.50.5\n"
        )
    assert pack.pydantic_core(tmp_path) == "pydantic-core==2.50.5"


@pytest.mark.parametrize("fast", [True, False])
def test_files_of_the_server_come_back_executable_and_work(tmp_path, fast):
    (tmp_path / "notes.txt").write_text("no machine code")
    program = subprocess.run(["which", "true"], capture_output=True, text=True).stdout.strip()
    files = {"bin/true": pack.Path(program), "notes.txt": tmp_path / "notes.txt"}
    pack.write_archive(tmp_path / "server.tar.xz", files, fast=fast)
    with tarfile.open(tmp_path / "server.tar.xz") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    assert (tmp_path / "out" / "notes.txt").read_text() == "no machine code"
    assert subprocess.run([tmp_path / "out" / "bin" / "true"]).returncode == 0
    assert (tmp_path / "out" / "pytriton" / "__init__.py").is_file()


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Returns a function that packs a bundle of so many bytes beside a tree of so many."""

    def make(bundle_bytes, tree_bytes, **options):
        tree = tmp_path / "tree.bin"
        tree.write_bytes(b"0" * tree_bytes)
        monkeypatch.setattr(pack, "MAX_TRANSFER_BYTES", 1000)
        monkeypatch.setattr(pack, "tree_files", lambda: [tree])
        monkeypatch.setattr(pack, "write_photos", lambda folder: folder.mkdir(parents=True))
        monkeypatch.setattr(pack, "interpreter_files", lambda python: ("3.12", {}))
        monkeypatch.setattr(pack, "download", lambda *_: None)
        monkeypatch.setattr(pack, "pydantic_core", lambda folder: "pydantic-core==1")
        monkeypatch.setattr(pack, "server_files", lambda home, version: {})
        monkeypatch.setattr(pack, "numpy_files", lambda version, folder: {})
        monkeypatch.setattr(
            pack, "write_archive", lambda target, *_, **__: target.write_bytes(b"0" * bundle_bytes)
        )
        return pack.pack(tmp_path / "bundle", "python3.12", **options)

    return make


def test_bundle_that_fits_with_the_tree(packed):
    assert packed(600, 400) == 600


def test_bundle_that_does_not_fit_with_the_tree_is_refused(packed):
    with pytest.raises(SystemExit, match="expected at most"):
        packed(601, 400)
    assert packed(601, 400, fast=True) == 601  # only for rehearsals


@pytest.fixture
def rehearsal(tmp_path):
    """Results in which every step ran."""
    rows = {
        "right": [{"dtype": "fp32", "moved_by_others": 1e-7, "moved_by_a_leak": 0.1}],
        "ceiling": [{"what": "copy", "gb_per_s": 1.0}],
        "encoder": [{"kind": "text"}, {"overlapped": "text"}, {"profiled": "text"}],
        "variants": [{"variant": "served"}],
        "search": [{"queries": 1}],
        "peers": [{"contender": "packed"}],
        "served": [{"set": "text", "callers": 1}],
    }
    for name, some in rows.items():
        write_section(tmp_path, name, {"machine": {"numpy": "1.26.4"}, "rows": some})
    records = {step.name: {"outcome": "done"} for step in PLAN}
    write_section(tmp_path, "command", {"steps": records})
    return tmp_path


def test_rehearsal_in_which_everything_holds(rehearsal):
    assert broken(rehearsal) == []


def test_rehearsal_tells_what_does_not_hold(rehearsal):
    write_section(rehearsal, "peers", {"rows": [{"contender": "packed", "failed": "no"}]})
    write_section(rehearsal, "served", {"machine": {"numpy": "2.5.2"}, "rows": []})
    claims = broken(rehearsal)
    assert "no row failed" in claims
    assert "the server has NumPy 1" in claims
    assert "every table has rows" in claims
    write_section(rehearsal, "command", {"steps": {}})
    assert any(claim.startswith("served is done") for claim in broken(rehearsal))
