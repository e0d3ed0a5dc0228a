"""Staging folders: none is left behind, and none is deleted while it is in use."""

import subprocess
import sys

from lensemble.index.maintenance.staging import staging_folder

BUILDER = """
import sys
from pathlib import Path
from lensemble.index.maintenance.staging import staging_folder

with staging_folder(Path(sys.argv[1])) as staging:
    (staging / "half").write_text("")
    print(staging, flush=True)
    input()
"""


def test_folder_of_a_killed_process_is_deleted_by_the_next(tmp_path):
    target = tmp_path / "index"
    other = tmp_path / ".index.backup"
    other.mkdir()
    command = [sys.executable, "-c", BUILDER, str(target)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as builder:
        in_use = builder.stdout.readline().strip()
        with staging_folder(target) as staging:
            names = {str(path) for path in tmp_path.iterdir()}
            assert names == {str(other), in_use, str(staging)}, "the other process uses its own"
            assert staging.stat().st_mode & 0o777 == 0o755
        builder.kill()
    assert {str(path) for path in tmp_path.iterdir()} == {str(other), in_use}
    with staging_folder(target) as staging:
        assert {path.name for path in tmp_path.iterdir()} == {other.name, staging.name}
    assert list(tmp_path.iterdir()) == [other], (
        "another name with the same beginning is not deleted"
    )


def test_folder_that_was_moved_to_its_target_stays(tmp_path):
    with staging_folder(tmp_path / "deep" / "index") as staging:
        (staging / "whole").write_text("")
        staging.rename(tmp_path / "deep" / "index")
    assert (tmp_path / "deep" / "index" / "whole").is_file()
    assert len(list((tmp_path / "deep").iterdir())) == 1
