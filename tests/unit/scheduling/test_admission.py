"""How long a new request would wait, and which requests are refused because of that."""

from types import SimpleNamespace

import pytest

from lensemble.scheduling import queue_monitor, wait_times
from lensemble.scheduling.admission import MIN_QUEUE, AdmissionControl
from lensemble.scheduling.lanes import BULK, BULK_ROWS, PICTURE, TEXT, lane_of
from lensemble.scheduling.queue_monitor import QueueMonitor, WaitEstimate, queue_counts
from lensemble.scheduling.wait_times import STALE_S, LaneWaitsWriter, TritonWaitWriter, Wait
from lensemble_contract.errors import OverloadedError
from tests.waiting import FakeClock, until

METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="preprocess",version="1"} 40
nv_inference_request_success{model="qwen3_vl",version="1"} 30
nv_inference_request_success{model="embed",version="1"} 29
# HELP nv_inference_pending_request_count Instantaneous number of pending requests
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="qwen3_vl",version="1"} 7
nv_inference_pending_request_count{model="preprocess",version="1"} 2
nv_inference_pending_request_count{model="faiss",version="1"} 5
"""
NOWHERE = "http://127.0.0.1:9/metrics"


def test_metrics_are_read():
    assert queue_counts(METRICS) == {"preprocess": (2, 40), "qwen3_vl": (7, 30)}
    assert queue_counts("nothing") == {}
    assert queue_counts('nv_inference_request_success{model="preprocess",version="1"} 30') == {}


def test_wait_is_the_queue_divided_by_the_rate():
    estimate = WaitEstimate()
    estimate.update(0, 10, 100)
    assert estimate.wait_s == 0  # no request was finished yet
    estimate.update(1, 10, 105)
    assert estimate.wait_s == pytest.approx(10 / 5)
    estimate.update(2, 30, 120)
    assert estimate.wait_s == pytest.approx(30 / 10)  # 20 in 2 seconds


def test_idle_time_does_not_count_for_the_rate():
    estimate = WaitEstimate()
    estimate.update(0, 10, 0)
    estimate.update(1, 10, 10)
    estimate.update(2, 0, 12)
    assert estimate.wait_s == 0
    estimate.update(60, 0, 13)
    estimate.update(61, 20, 14)
    assert estimate.wait_s == pytest.approx(20 / 10)


def test_slow_batches_have_a_rate_too():
    """64 requests every 13 seconds, which is longer than the window; read every second."""
    estimate = WaitEstimate()
    for second in range(66):
        estimate.update(second, 100, 64 * (second // 13))
        if second < 13:
            assert estimate.wait_s == second  # the time without a finished request
        else:
            assert estimate.wait_s == pytest.approx(100 * 13 / 64)
    for second in range(66, 120):
        estimate.update(second, 100, 64 * 5)  # nothing more is finished
    assert estimate.wait_s == 119 - 65


def test_old_rates_are_forgotten(monkeypatch):
    monkeypatch.setattr(queue_monitor, "_WINDOW_S", 2)
    estimate = WaitEstimate()
    for second, finished in enumerate((0, 100, 200, 201, 202, 203)):
        estimate.update(second, 10, finished)
    assert estimate.wait_s == pytest.approx(10 / 1)


def test_lane_depends_on_size_and_content():
    assert lane_of(1, pictures=False) == TEXT
    assert lane_of(BULK_ROWS, pictures=True) == PICTURE
    assert lane_of(BULK_ROWS + 1, pictures=False) == BULK


@pytest.fixture
def clock(monkeypatch):
    """The clock by which figures become stale; it stands still, however slow the machine is."""
    clock = FakeClock()
    monkeypatch.setattr(wait_times, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def control(tmp_path, clock):
    """Admission control that reads what `write_triton` and `write_lanes` wrote."""
    control = AdmissionControl(tmp_path, 4.0)
    triton_wait = TritonWaitWriter(tmp_path)
    lane_waits = LaneWaitsWriter(tmp_path, "qwen3_vl")
    control.write_triton = lambda wait, age_s=0.0: triton_wait.write(clock() - age_s, wait)
    control.write_lanes = lane_waits.write
    return control


def test_requests_are_refused_for_the_wait_in_tritons_queues(control):
    control.write_triton(Wait(3.9, 100))
    control.check(TEXT)
    for lane in (PICTURE, BULK):  # they may wait half as long
        with pytest.raises(
            OverloadedError, match=r"100 or more items wait already, about 3\.9 s of"
        ):
            control.check(lane)
    control.write_triton(Wait(5, 100))
    with pytest.raises(OverloadedError, match=r"a text request may wait 4 s"):
        control.check(TEXT)
    assert control.refused == 3


def test_texts_are_admitted_while_pictures_wait(control):
    control.write_triton(Wait(0.1, 1))
    control.write_lanes([Wait(0.5, 40), Wait(2.5, 90), Wait(1.5, 200)])
    control.check(TEXT)
    control.check(BULK)
    with pytest.raises(OverloadedError, match=r"a picture request may wait 2 s"):
        control.check(PICTURE)


def test_waits_in_both_queues_add_up(control):
    control.write_triton(Wait(2, 20))
    control.write_lanes([Wait(2.5, 20), Wait(0, 0), Wait(0, 0)])
    with pytest.raises(OverloadedError, match=r"40 or more items wait already, about 4\.5 s"):
        control.check(TEXT)
    control.check(PICTURE)


def test_least_busy_encoder_counts(tmp_path):
    TritonWaitWriter(tmp_path)
    first, second = (LaneWaitsWriter(tmp_path, name) for name in ("first", "second"))
    control = AdmissionControl(tmp_path, 4.0)
    first.write([Wait(9, 90)] * 3)
    control.check(TEXT)  # the second one is idle
    second.write([Wait(8, 80)] * 3)
    with pytest.raises(OverloadedError, match="80 or more items"):
        control.check(TEXT)


def test_a_few_requests_may_wait_for_any_time(control):
    control.write_triton(Wait(60, MIN_QUEUE // 2))
    control.write_lanes([Wait(60, MIN_QUEUE // 2)] * 3)
    control.check(PICTURE)
    control.write_triton(Wait(60, MIN_QUEUE // 2 + 1))
    with pytest.raises(OverloadedError):
        control.check(PICTURE)


def test_stale_figures_of_the_supervisor_are_ignored(control):
    control.write_triton(Wait(60, 100), age_s=STALE_S + 1)
    control.check(PICTURE)


def test_without_a_supervisor_no_request_is_refused(tmp_path):
    AdmissionControl(None, 4.0).check(PICTURE)
    control = AdmissionControl(tmp_path, 4.0)
    LaneWaitsWriter(tmp_path, "qwen3_vl").write([Wait(60, 100)] * 3)
    control.check(PICTURE)
    TritonWaitWriter(tmp_path)
    with pytest.raises(OverloadedError):
        control.check(PICTURE)
    AdmissionControl(tmp_path, 0).check(PICTURE)  # admission is switched off
    LaneWaitsWriter(None, "qwen3_vl").write([Wait(1, 1)] * 3)


def test_queue_monitor_writes_what_admission_reads(tmp_path, clock):
    with QueueMonitor(NOWHERE, tmp_path) as monitor:
        now = clock()
        monitor.update(now - 1, {"preprocess": (100, 0)})
        monitor.update(now, {"preprocess": (100, 20)})
        control = AdmissionControl(tmp_path, 4.0)
        with pytest.raises(OverloadedError, match=r"100 or more items wait already, about 5\.0 s"):
            control.check(TEXT)


def test_queue_monitor_goes_on_when_the_server_does_not_answer(tmp_path, monkeypatch):
    readings = []

    def refuse(url, timeout):
        readings.append(url)
        raise OSError("connection refused")

    monkeypatch.setattr(queue_monitor, "open_without_proxy", refuse)
    with QueueMonitor(NOWHERE, tmp_path):
        until(lambda: len(readings) >= 3)
