"""The package's docstring against its files."""

import re
from pathlib import Path

from lensemble import gateway


def test_docstring_names_every_module_and_no_other():
    entries = set(re.findall(r"^    (\w+/?) ", gateway.__doc__, re.MULTILINE))
    folder = Path(gateway.__file__).parent
    existing = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    existing |= {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    in_prose = set(re.findall(r"`(\w+)`", gateway.__doc__))
    assert entries <= existing
    assert in_prose <= existing
    assert entries | in_prose == existing
