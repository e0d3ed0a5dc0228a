"""Locust patches the standard library, so each of these tests imports it in a new process."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.paths import ROOT
from tests.waiting import DEADLINE_S


def test_neither_locust_nor_torch_is_imported_by_the_process_that_runs_the_server():
    program = (
        "import benchmarks.load.__main__, benchmarks.load.users.triton_connection, sys;"
        "print(sorted({'locust', 'gevent', 'torch'} & sys.modules.keys()))"
    )
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (completed.stdout.strip(), completed.returncode) == ("[]", 0), completed.stderr


CALL_40_TIMES = """
import os, runpy, sys
import locust, gevent
runpy.run_path("benchmarks/locustfile.py")
import grpc
def call(number):
    return grpc.insecure_channel(sys.argv[1]).unary_unary("/a/b")(bytes([number]))
users = [gevent.spawn(call, number) for number in range(40)]
users[-1].join(timeout=float(sys.argv[2]))
print([user.ready() for user in users].count(True), users[-1].value, flush=True)
os._exit(0)
"""


def test_an_answer_is_seen_while_39_older_calls_wait():
    released = threading.Event()
    older = threading.Semaphore(0)  # counts the older calls that have arrived

    def answer(request, _):
        if request == bytes([39]):
            for _ in range(39):
                assert older.acquire(timeout=DEADLINE_S)
        else:
            older.release()
            released.wait(DEADLINE_S)
        return b"seen"

    class Handler(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(64), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        command = [sys.executable, "-c", CALL_40_TIMES, f"127.0.0.1:{port}", str(DEADLINE_S)]
        completed = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=2 * DEADLINE_S
        )
    finally:
        released.set()
        server.stop(None)
    assert completed.stdout.strip() == "1 b'seen'", completed.stdout + completed.stderr


@pytest.mark.parametrize(
    ("name", "task"), [("soak", "OpenLoopUser"), ("demo-mixed", "ClosedLoopUser")]
)
def test_users_have_the_one_task_of_their_loop(name, task):
    code = (
        "from benchmarks.load.scenario import load_scenario\n"
        "from benchmarks.load.users.locust_users import users_of\n"
        f"users = users_of(load_scenario({name!r}))\n"
        "print({task.__qualname__ for user in users for task in user.tasks})"
    )
    command = [sys.executable, "-c", code]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == str({f"{task}.turn"})
