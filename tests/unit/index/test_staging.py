"""Folders in which something is made: none is left behind, and none is taken from its maker."""

import subprocess
import sys

from lensemble.index.maintenance.staging import staging_folder

MAKER = """
import sys
from pathlib import Path
from lensemble.index.maintenance.staging import staging_folder

with staging_folder(Path(sys.argv[1])) as made:
    (made / "half").write_text("")
    print(made, flush=True)
    input()
"""


def test_what_a_killed_process_left_goes_with_the_next(tmp_path):
    target = tmp_path / "index"
    mine = tmp_path / ".index.backup"
    mine.mkdir()
    command = [sys.executable, "-c", MAKER, str(target)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as maker:
        theirs = maker.stdout.readline().strip()
        with staging_folder(target) as made:
            names = {str(path) for path in tmp_path.iterdir()}
            assert names == {str(mine), theirs, str(made)}, "its maker is at work"
            assert made.stat().st_mode & 0o777 == 0o755
        maker.kill()
    assert {str(path) for path in tmp_path.iterdir()} == {str(mine), theirs}
    with staging_folder(target) as made:
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, made.name}
    assert list(tmp_path.iterdir()) == [mine], "a name that only begins alike is nobody's business"


def test_what_was_moved_away_stays(tmp_path):
    with staging_folder(tmp_path / "deep" / "index") as made:
        (made / "whole").write_text("")
        made.rename(tmp_path / "deep" / "index")
    assert (tmp_path / "deep" / "index" / "whole").is_file()
    assert len(list((tmp_path / "deep").iterdir())) == 1
