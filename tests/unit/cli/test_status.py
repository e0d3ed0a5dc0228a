"""`lensemble status`: metrics are parsed, and shown as rates."""

import socket
import threading
from contextlib import contextmanager

import pytest

from lensemble_cli.status import fetch_metrics, format_activity, parse_metrics
from lensemble_contract.errors import NotReadyError

# The metrics of tritonserver, whose counters have no `_total`, and of the stages.
METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="embed",version="1"}} {requests}
# HELP nv_inference_queue_duration_us Cumulative inference queuing duration in microseconds
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{{model="embed",version="1"}} {queue_us}
# HELP nv_inference_compute_infer_duration_us Cumulative compute inference duration in microseconds
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{{model="embed",version="1"}} {infer_us}
# HELP nv_inference_pending_request_count Instantaneous number of pending requests
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{{model="embed",version="1"}} {pending}
# HELP lensemble_errors_total Requests that were answered with an error.
# TYPE lensemble_errors_total counter
lensemble_errors_total{{triton_model="embed",code="internal",input="",reason=""}} {internal}
lensemble_errors_total{{triton_model="embed",code="invalid_input",input="text",reason=""}} {invalid}
# HELP lensemble_index_items Items in the index.
# TYPE lensemble_index_items gauge
lensemble_index_items{{triton_model="faiss"}} 1000
# HELP lensemble_index_delta Items since the snapshot.
# TYPE lensemble_index_delta gauge
lensemble_index_delta{{triton_model="faiss"}} 7
"""
BEFORE = METRICS.format(
    requests=100, queue_us=5000, infer_us=7000, pending=0, internal=1, invalid=0
)
AFTER = METRICS.format(
    requests=150, queue_us=105000, infer_us=207000, pending=3, internal=2, invalid=4
)


def test_rates_and_means_between_two_readings():
    lines = format_activity(parse_metrics(BEFORE), parse_metrics(AFTER), 5.0).splitlines()
    name, *numbers = lines[1].split()
    assert name == "embed"
    # In 5 s: 50 requests, which waited 100 ms and took 200 ms in total; 5 errors. 3 requests wait.
    assert [float(number) for number in numbers] == [10.0, 3, 2.0, 4.0, 1.0]
    assert lines[-1] == "index: 1000 items, 7 of them since the snapshot"


def test_a_model_without_requests_has_rates_of_zero():
    metrics = parse_metrics(BEFORE)
    assert format_activity(metrics, metrics, 1.0).splitlines()[1].split()[1] == "0.0"


def test_metrics_that_cannot_be_read_are_empty():
    assert fetch_metrics("http://127.0.0.1:1/metrics") == {}
    assert fetch_metrics("http://127.0.0.1:port/metrics") == {}
    assert "--metrics" in format_activity({}, {}, 1.0)


@contextmanager
def answering(answer):
    """URL of a server that sends these bytes in answer to one request."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send():
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as request:
                while request.readline().strip():  # up to the empty line after the headers
                    pass
                connection.sendall(answer)

        thread = threading.Thread(target=send)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        thread.join()


def test_port_that_does_not_speak_http_is_reported():
    settings_frame = b"\0\0\6\4\0\0\0\0\0\0\5\0\0\100\0\n"  # with which gRPC's HTTP/2 begins
    with answering(settings_frame) as url, pytest.raises(NotReadyError) as raised:
        fetch_metrics(url)
    assert str(raised.value) == (
        f"{url} does not speak HTTP; expected the URL of Triton's metrics (--metrics)"
    )


def test_metrics_that_break_off_are_empty():
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc") as url:
        assert fetch_metrics(url) == {}


def test_braces_and_commas_inside_a_label_are_read():
    text = 'lensemble_errors_total{reason="a, \\"b\\" {c}",triton_model="embed"} 2\n'
    assert parse_metrics(text) == {("lensemble_errors", "embed"): 2.0}
