"""Fills /dev/shm while a server works; run it where mounting is allowed.

unshare --user --map-root-user --mount python -m tests.faults.small_shm CHECKPOINT FOLDER
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lensemble.operations.supervisor import Supervisor
from lensemble.operations.tritonserver import TritonServer
from lensemble.settings import Settings
from lensemble_client import Client, Item, Retry
from lensemble_contract.errors import LensembleError
from tests.waiting import until

SIZE = "48m"
CALLS = 64
SPARE_BYTES = 64 * 1024
SHM = Path("/dev/shm")


def ask(url: str, item: Item) -> object:
    """A vector, or the error."""
    with Client(url, timeout_s=20, retry=Retry(tries=1)) as client:
        try:
            return client.embed(item.text)
        except LensembleError as error:
            return error


def main() -> None:
    """Fills /dev/shm under load, makes room, and checks that the server works again."""
    checkpoint, folder = map(Path, sys.argv[1:])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "small", str(SHM)], check=True)
    settings = Settings(checkpoint=checkpoint, dtype="fp32", index=folder / "index", writes="on")
    long = [Item("word " * 7000 + str(n)) for n in range(CALLS)]
    with Supervisor(TritonServer(settings)) as watching:
        url = watching.server.grpc_url
        with Client(url) as client:
            expected = client.embed("a red car")
            client.ingest("a", "a red car", document={})
        ballast = SHM / "ballast"
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(SHM).free - SPARE_BYTES)))
        with ThreadPoolExecutor(CALLS) as pool:
            answers = list(pool.map(lambda item: ask(url, item), long))
        assert all(isinstance(one, np.ndarray | LensembleError) for one in answers)
        kinds = sorted({type(one).__name__ for one in answers})
        ballast.unlink()
        until(lambda: isinstance(ask(url, Item("a red car")), np.ndarray), "a vector")
        with Client(url) as client:
            np.testing.assert_allclose(client.embed("a red car"), expected, atol=1e-5)
            assert client.get("a").id == "a"
            client.ingest("b", "a blue car", document={})
        print(f"answers: {', '.join(kinds)}; restarts: {watching.state.restarts}")
    assert not list(SHM.glob("lensemble_*"))
    print("intact")


if __name__ == "__main__":
    main()
