"""The model object of Triton's Python backend, with a stand-in for Triton's module."""

import json
import sys
import threading
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from lensemble.settings import Settings
from lensemble.stages.stage import Counter, LaneStage, Stage
from lensemble_contract import contract
from lensemble_contract.errors import InvalidInputError
from tests.waiting import until

PACKAGE = "lensemble.stages.python_backend"
NUMBER, DOUBLE = contract.Tensor("embedding", "FP32", (1,)), contract.Tensor("scores", "FP32", (1,))


class FakeTriton:
    """Has the parts of `triton_python_backend_utils` that are used.

    Attributes:
        metrics: current values by name and labels.
    """

    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

    def __init__(self):
        self.metrics = metrics = defaultdict(float)

        class Family:
            GAUGE, COUNTER = "gauge", "counter"

            def __init__(self, name, description, kind):
                self.name = name

            def Metric(self, labels):
                key = (self.name, *labels.values())

                def increment(value):
                    metrics[key] += value

                def set_to(value):
                    metrics[key] = value

                return SimpleNamespace(increment=increment, set=set_to)

        self.MetricFamily = Family
        self.Tensor = lambda name, values: (name, values)
        self.Logger = SimpleNamespace(log_error=print, log_warn=print, log_info=print)

    class TritonError(Exception):
        INVALID_ARG, UNSUPPORTED, NOT_FOUND = "INVALID_ARG", "UNSUPPORTED", "NOT_FOUND"
        UNAVAILABLE, CANCELLED, INTERNAL = "UNAVAILABLE", "CANCELLED", "INTERNAL"

    @staticmethod
    def InferenceResponse(output_tensors=(), error=None):
        return SimpleNamespace(tensors=dict(output_tensors), error=error and error.args)

    @staticmethod
    def get_input_tensor_by_name(request, name):
        return request.tensors.get(name)


class FakeRequest:
    """A request of one number for each row; responses that are sent later go to `sent`."""

    def __init__(self, *numbers, **parameters):
        values = np.array([[number] for number in numbers], np.float32)
        self.tensors = {NUMBER.name: SimpleNamespace(as_numpy=lambda: values)}
        self._parameters = json.dumps(parameters)
        self.sent = []

    def request_id(self):
        return "r-1"

    def parameters(self):
        return self._parameters

    def get_response_sender(self):
        return SimpleNamespace(send=lambda response, flags: self.sent.append(response))


class Doubling(Stage):
    """Doubles numbers; 13 is a bad row, 14 fails the call, and 15 cannot be read."""

    model = contract.Model("double", (NUMBER,), (DOUBLE,))

    def read(self, rows, parameters):
        numbers = rows[NUMBER.name][:, 0].tolist()
        assert 15 not in numbers
        return [InvalidInputError("unlucky", field="text") if n == 13 else n for n in numbers]

    def run(self, rows):
        if 14 in rows:
            raise RuntimeError("/a/secret/path")
        return [2 * number for number in rows]

    def write(self, results):
        return {DOUBLE.name: np.array([[result] for result in results], np.float32)}

    def counters(self):
        return [Counter("calls_total", "Calls.", {}, 3)]


class DoublingInLanes(Doubling, LaneStage):
    """The same in lanes; two numbers do not fit into one pass."""

    def lane(self, rows):
        return "text"

    def costs(self, row):
        return (0.8,)

    def copied(self, row):
        return row


@pytest.fixture
def triton(monkeypatch):
    fake = FakeTriton()
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    yield fake
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


@pytest.fixture
def model(triton, tmp_path):
    from lensemble.stages.python_backend.model import TritonModel

    return TritonModel(Doubling(), "double", Settings(checkpoint=tmp_path))


@pytest.fixture
def lane_model(triton, tmp_path):
    from lensemble.stages.python_backend.lane_model import LaneTritonModel

    model = LaneTritonModel(DoublingInLanes(), "double", Settings(checkpoint=tmp_path))
    scheduler = model._scheduler
    until(lambda: not (scheduler._callbacks or scheduler._busy), "the end of the first check")
    yield model
    model.close()


def test_stage_is_checked_in_the_thread_of_the_passes_at_the_start(triton, tmp_path):
    from lensemble.stages.python_backend.lane_model import LaneTritonModel

    threads = []

    class Checked(DoublingInLanes):
        def check(self):
            threads.append(threading.current_thread().name)

    model = LaneTritonModel(Checked(), "double", Settings(checkpoint=tmp_path))
    model.close()
    assert threads == ["passes"]


def numbers(response):
    assert response.error is None
    return response.tensors[DOUBLE.name][:, 0].tolist()


def test_requests_of_one_call_get_their_own_responses(model):
    one, bad, two = model.execute([FakeRequest(1), FakeRequest(2, 13), FakeRequest(3, 4)])
    assert (numbers(one), numbers(two)) == ([2], [6, 8])
    text, code = bad.error
    assert code == "INVALID_ARG"
    assert "unlucky" in text and "(row 1 of 2)" in text


@pytest.mark.parametrize("number", [14, 15])
def test_failure_shows_no_details_to_callers(model, number):
    (response,) = model.execute([FakeRequest(number)])
    text, code = response.error
    assert code == "INTERNAL"
    assert "secret" not in text and "log" in text


def test_unknown_parameters_are_refused(model):
    (response,) = model.execute([FakeRequest(1, dimension=3)])
    assert "no such request parameter" in response.error[0]


def test_ping_answers_with_blank_rows_or_the_failure(model, monkeypatch):
    (response,) = model.execute([FakeRequest(1, ping=True)])
    assert numbers(response) == [0]

    def check(self):
        raise ValueError("no device")

    monkeypatch.setattr(Doubling, "check", check)
    (response,) = model.execute([FakeRequest(1, ping=True)])
    assert response.error[0].endswith("double cannot do its work: ValueError")


def test_errors_are_counted_in_metrics(model, triton):
    model.execute([FakeRequest(13), FakeRequest(13), FakeRequest(14)])
    assert triton.metrics["lensemble_errors_total", "double", "invalid_input", "text", ""] == 2
    assert triton.metrics["lensemble_errors_total", "double", "internal", "", ""] == 1
    assert triton.metrics["calls_total", "double"] == 3


def test_single_pass_is_answered_at_once(lane_model):
    request = FakeRequest(5)
    (response,) = lane_model.execute([request])
    assert numbers(response) == [10]
    assert request.sent == []


def test_requests_in_lanes_are_answered_later(lane_model, triton):
    requests = [FakeRequest(1, 2), FakeRequest(13), FakeRequest(3, ping=True), FakeRequest(4)]
    first, bad, ping, last = lane_model.execute(requests)
    assert (first, ping, last) == (None, None, None)
    assert "unlucky" in bad.error[0]
    until(lambda: requests[0].sent and requests[2].sent and requests[3].sent)
    assert numbers(requests[0].sent[0]) == [2, 4]
    assert numbers(requests[2].sent[0]) == [0]
    assert numbers(requests[3].sent[0]) == [8]
    until(lambda: triton.metrics["lensemble_errors_total", "double", "invalid_input", "text", ""])


def test_close_answers_what_waits(triton, tmp_path):
    from lensemble.stages.python_backend.lane_model import LaneTritonModel

    open_gate = threading.Event()

    class Gated(DoublingInLanes):
        def run(self, rows):
            open_gate.wait()
            return super().run(rows)

    model = LaneTritonModel(Gated(), "double", Settings(checkpoint=tmp_path))
    requests = [FakeRequest(1, 2), FakeRequest(3)]
    assert model.execute(requests) == [None, None]
    closing = threading.Thread(target=model.close)
    closing.start()
    open_gate.set()
    closing.join()
    assert [numbers(request.sent[0]) for request in requests] == [[2, 4], [6]]


def test_another_contract_version_is_refused(triton):
    from lensemble.stages.python_backend import load_model

    config = {"parameters": {"contract_version": {"string_value": "0"}}}
    args = {"model_name": "double", "model_config": json.dumps(config)}
    with pytest.raises(InvalidInputError, match="contract version 0"):
        load_model(Doubling, args)
