from lensemble_cli.status import read, sample, table

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


def test_rates_and_means_of_what_was_done_in_between():
    lines = table(read(BEFORE), read(AFTER), 5.0).splitlines()
    name, *numbers = lines[1].split()
    assert name == "embed"
    # 50 in 5 s; 3 wait; 100 ms and 200 ms for 50; 5 errors in 5 s.
    assert [float(number) for number in numbers] == [10.0, 3, 2.0, 4.0, 1.0]
    assert lines[-1] == "index: 1000 items, 7 of them since the snapshot"


def test_nothing_done_divides_by_nothing():
    assert table(read(BEFORE), read(BEFORE), 1.0).splitlines()[1].split()[1] == "0.0"


def test_metrics_that_cannot_be_read():
    assert sample("http://127.0.0.1:1/metrics") == {}
    assert "--metrics" in table({}, {}, 1.0)
