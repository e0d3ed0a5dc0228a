"""Slots for long work: one process stays free."""

import contextlib
import os

import pytest

from lensemble.scheduling.heartbeat import HeartbeatWriter, read_heartbeats
from lensemble.scheduling.slots import Slots
from lensemble_contract.errors import OverloadedError


def pretend_processes(folder, count, model="preprocess"):
    for number in range(count):
        (folder / f"{model}-{number}").touch()


@pytest.mark.parametrize(("processes", "slots"), [(1, 1), (2, 1), (3, 2), (8, 7)])
def test_one_process_stays_free(tmp_path, processes, slots):
    pretend_processes(tmp_path, processes)
    pretend_processes(tmp_path, 5, "qwen3_vl")
    with contextlib.ExitStack() as held:
        for _ in range(slots):
            held.enter_context(Slots(tmp_path, "preprocess").taken("pictures"))
        with pytest.raises(OverloadedError, match="other pictures are being worked on; try again"):
            held.enter_context(Slots(tmp_path, "preprocess").taken("pictures"))
    with Slots(tmp_path, "preprocess").taken("pictures"):
        pass


def test_slot_of_a_process_that_died_is_free(tmp_path):
    pretend_processes(tmp_path, 2)
    child = os.fork()
    if child == 0:
        Slots(tmp_path, "preprocess").taken("pictures").__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    with Slots(tmp_path, "preprocess").taken("pictures"):
        pass


def test_slot_is_given_back_after_an_error(tmp_path):
    slots = Slots(tmp_path, "preprocess")
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"), slots.taken("pictures"):
            raise ValueError("broken")


def test_without_a_folder_there_is_no_limit(tmp_path):
    for folder in (None, tmp_path / "missing"):
        slots = Slots(folder, "preprocess")
        with slots.taken("pictures"), slots.taken("pictures"):
            pass


def test_slots_are_no_heartbeats(tmp_path):
    HeartbeatWriter(tmp_path, "preprocess", 1.0)
    with Slots(tmp_path, "preprocess").taken("pictures"):
        assert [beat.pid for beat in read_heartbeats(tmp_path)] == [os.getpid()]
