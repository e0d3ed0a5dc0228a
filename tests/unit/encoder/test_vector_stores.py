"""The stores of the vector cache, with real files and real processes."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from lensemble.encoder.vector_cache.stores import LocalVectors, SharedVectors

PAGE = 4096
MIB = 1024**2


def vector(number, length=8):
    return np.full(length, number, np.float32)


def key(number):
    return number.to_bytes(32, "little")


@pytest.fixture(params=["local", "shared"])
def store(request, tmp_path):
    if request.param == "local":
        return LocalVectors(MIB)
    return SharedVectors(tmp_path / "vectors", MIB, "sha256:1")


def test_vector_comes_back_as_it_was(store):
    assert store.keeps_vectors
    assert store.get(key(1)) is None
    original = vector(1.25)
    store.put(key(1), original)
    original[:] = 9
    assert store.get(key(1)).tolist() == [1.25] * 8
    with pytest.raises(ValueError, match="read-only"):
        store.get(key(1))[:] = 9


def test_same_vector_takes_its_memory_once(store):
    store.put(key(1), vector(1))
    used = store.used_bytes
    store.put(key(1), vector(1))
    assert store.used_bytes == used > 0


def test_vector_that_is_too_large_is_not_kept(store):
    store.put(key(1), vector(1, length=MIB))
    assert store.get(key(1)) is None
    assert store.used_bytes == 0


def test_vectors_that_were_not_used_for_long_are_dropped(tmp_path):
    store = SharedVectors(tmp_path / "vectors", 8 * PAGE, "sha256:1")  # four in each generation
    store.put(key(0), vector(0))
    for number in range(1, 30):
        store.put(key(number), vector(number))
        assert store.get(key(0)) is not None  # it is used all the time
        assert store.get(key(number)) is not None
    assert store.used_bytes <= 8 * PAGE
    kept = [number for number in range(30) if store.get(key(number)) is not None]
    assert kept[0] == 0
    assert set(kept[1:]) <= set(range(22, 30))


def test_vectors_of_another_profile_are_not_returned(tmp_path):
    SharedVectors(tmp_path / "vectors", MIB, "sha256:1").put(key(1), vector(1))
    # LMDB refuses a second handle to one file in one process, so another process looks.
    look = (
        "import sys; from pathlib import Path\n"
        "from lensemble.encoder.vector_cache.stores import SharedVectors\n"
        f"store = SharedVectors(Path(sys.argv[1]), {MIB}, sys.argv[2])\n"
        "found = store.get((1).to_bytes(32, 'little'))\n"
        "print(None if found is None else found.tolist())\n"
    )
    seen = [
        subprocess.run(
            [sys.executable, "-c", look, str(tmp_path / "vectors"), profile],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for profile in ("sha256:1", "sha256:2")
    ]
    assert seen == [str([1.0] * 8), "None"]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from lensemble.encoder.vector_cache.stores import SharedVectors
store = SharedVectors(Path(sys.argv[1]), 1024**2, "sha256:1")
number = 0
while True:
    number += 1
    store.put(number.to_bytes(32, "little"), np.full(2048, number, np.float32))
    if number == 20:
        print("writing", flush=True)
"""


def test_killed_process_harms_neither_the_file_nor_the_others(tmp_path):
    """A process that is killed while it writes may hold LMDB's lock, which is released."""
    store = SharedVectors(tmp_path / "vectors", MIB, "sha256:1")
    for turn in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "vectors")], stdout=subprocess.PIPE
        )
        assert writer.stdout.readline() == b"writing\n"
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        store.put(key(10**6 + turn), vector(turn))
        assert store.get(key(10**6 + turn)).tolist() == [turn] * 8
        for number in range(1, 5000):
            found = store.get(key(number))
            assert found is None or (found == number).all()


def test_file_that_cannot_be_written_costs_only_the_cache(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("lensemble.encoder.vector_cache.stores._SPARE_BYTES", -2 * MIB + 32 * PAGE)
    store = SharedVectors(tmp_path / "vectors", MIB, "sha256:1")
    for number in range(200):
        store.put(key(number), vector(number, length=1030))
    assert "the shared vector cache cannot be written" in caplog.text
    assert store.get(key(1)).tolist() == [1.0] * 1030


def test_folder_that_cannot_be_used_is_an_error_with_its_cause(tmp_path):
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "data.mdb").write_bytes(b"not LMDB" * 2000)
    with pytest.raises(OSError, match=r"vector cache in .* cannot be opened"):
        SharedVectors(tmp_path / "vectors", MIB, "sha256:1")
