"""What Triton needs on a machine: everything that is missing is found and has a remedy."""

import os
import subprocess
import sysconfig
from types import SimpleNamespace

import pytest
from triton import knobs

from lensemble.encoder.pytorch.kernels import requirements
from lensemble.encoder.pytorch.kernels.requirements import cache_folder, missing_requirements


@pytest.fixture(autouse=True)
def complete_machine(monkeypatch, tmp_path):
    """A machine that has everything, in a folder of its own."""
    for name in ("CC", "TRITON_CACHE_DIR", "TRITON_HOME", "TRITON_LIBCUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "gcc").write_text("#!/bin/sh\n")
    (tools / "gcc").chmod(0o755)
    (tmp_path / "Python.h").touch()
    (tmp_path / "libcuda.so.1").touch()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache" / "triton"))
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    monkeypatch.setattr(requirements, "_has_triton", lambda: True)
    no_libraries = SimpleNamespace(stdout="libc.so.6 => /lib/libc.so.6")
    monkeypatch.setattr(requirements.subprocess, "run", lambda *_, **__: no_libraries)
    return tmp_path


def missing():
    found = list(missing_requirements())
    assert all(each.remedy for each in found)
    return [each.what for each in found]


def test_nothing_is_missing():
    assert missing() == []


def test_compiler(complete_machine, monkeypatch):
    (complete_machine / "bin/gcc").rename(complete_machine / "bin/clang")
    assert missing() == []
    (complete_machine / "bin/clang").unlink()
    assert missing() == ["no C compiler"]


def test_compiler_of_the_variable_cc_replaces_the_others(monkeypatch):
    monkeypatch.setenv("CC", "icx")
    assert missing() == ["no C compiler 'icx' (variable CC)"]


def test_header(complete_machine):
    (complete_machine / "Python.h").unlink()
    assert missing() == [f"no {complete_machine}/Python.h"]


def test_header_is_not_looked_for_in_debians_local_folder(complete_machine, monkeypatch):
    folders = {"posix_prefix": str(complete_machine), "posix_local": "/usr/local/include"}
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: "posix_local")
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: folders[scheme])
    assert missing() == []


def test_library(complete_machine, monkeypatch):
    (complete_machine / "libcuda.so.1").unlink()
    assert missing() == ["the linker does not find libcuda.so.1"]
    known = SimpleNamespace(stdout="libcuda.so.1 (libc6,x86-64) => /lib/libcuda.so.1")
    monkeypatch.setattr(requirements.subprocess, "run", lambda *_, **__: known)
    assert missing() == []

    def fails(*_, **__):
        raise subprocess.CalledProcessError(1, "ldconfig")

    monkeypatch.setattr(requirements.subprocess, "run", fails)
    assert missing() == ["the linker does not find libcuda.so.1"]


def test_cache_folder_that_cannot_be_written(complete_machine, monkeypatch):
    assert missing() == []
    assert not (complete_machine / "cache").exists()  # the check makes nothing

    def denied(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(requirements.tempfile, "TemporaryFile", denied)
    assert missing() == [f"the folder '{complete_machine}/cache/triton' is not writable"]


def test_cache_folder_from_which_nothing_can_be_loaded(complete_machine, monkeypatch):
    """Docker mounts a `tmpfs` like that."""
    mounted = SimpleNamespace(f_flag=os.ST_NOSUID | os.ST_NOEXEC)
    monkeypatch.setattr(os, "statvfs", lambda folder: mounted)
    assert missing() == [f"the folder '{complete_machine}/cache/triton' is mounted `noexec`"]


def test_package(monkeypatch):
    monkeypatch.setattr(requirements, "_has_triton", lambda: False)
    assert missing() == ["the package triton is not installed"]


def test_package_that_is_only_a_folder_of_that_name_does_not_count(monkeypatch, tmp_path):
    monkeypatch.undo()
    assert requirements._has_triton()

    def no_language(name):
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(requirements.importlib.util, "find_spec", no_language)
    assert not requirements._has_triton()
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: None)
    assert not requirements._has_triton()


@pytest.mark.parametrize(
    "variables", [{}, {"TRITON_HOME": "/srv"}, {"TRITON_CACHE_DIR": "/cache", "HOME": "/nobody"}]
)
def test_cache_folder_is_the_one_that_triton_takes(variables, monkeypatch):
    monkeypatch.delenv("TRITON_CACHE_DIR")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert os.fspath(cache_folder()) == knobs.cache_knobs().dir
