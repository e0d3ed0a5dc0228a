"""Unit tests start fast: importing them loads nothing that takes seconds to import."""

import subprocess
import sys

from tests.paths import ROOT

# Seconds each, or, for gevent, a patched standard library. Tests of code that needs PyTorch lie in
# tests/pytorch.
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "locust", "gevent", "schemathesis")

COLLECT = """
import sys, pytest
class Heavy:
    def pytest_collection_finish(self, session):
        print("tests:", len(session.items))
        print("heavy:", *(name for name in {heavy!r} if name in sys.modules))
sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests/unit"], [Heavy()]))
"""


def test_collecting_unit_tests_imports_nothing_heavy():
    command = [sys.executable, "-c", COLLECT.format(heavy=HEAVY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    lines = dict(
        line.split(":", 1) for line in done.stdout.splitlines() if ": " in line or line == "heavy:"
    )
    assert int(lines["tests"]) > 100
    assert lines["heavy"].split() == []
