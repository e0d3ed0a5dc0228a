"""`lensemble status`: metrics are parsed, and shown as rates."""

from lensemble_cli.status import fetch_metrics, format_activity, parse_metrics

BEFORE = """
# HELP nv_inference_request_success Number of successful requests
nv_inference_request_success{model="embed",version="1"} 100
nv_inference_queue_duration_us{model="embed",version="1"} 5000
nv_inference_compute_infer_duration_us{model="embed",version="1"} 7000
nv_inference_pending_request_count{model="embed",version="1"} 0
lensemble_errors_total{triton_model="embed",code="internal",input="",reason=""} 1
"""
AFTER = """
nv_inference_request_success{model="embed",version="1"} 150
nv_inference_queue_duration_us{model="embed",version="1"} 105000
nv_inference_compute_infer_duration_us{model="embed",version="1"} 207000
nv_inference_pending_request_count{model="embed",version="1"} 3
lensemble_errors_total{triton_model="embed",code="internal",input="",reason=""} 2
lensemble_errors_total{triton_model="embed",code="invalid_input",input="text",reason=""} 4
lensemble_index_items{triton_model="faiss"} 1000
lensemble_index_delta{triton_model="faiss"} 7
"""


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
    assert "--metrics" in format_activity({}, {}, 1.0)


def test_braces_and_commas_inside_a_label_are_read():
    text = 'lensemble_errors_total{reason="a, \\"b\\" {c}",triton_model="embed"} 2\n'
    assert parse_metrics(text) == {("lensemble_errors_total", "embed"): 2.0}
