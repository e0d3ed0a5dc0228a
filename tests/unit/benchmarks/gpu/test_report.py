"""The tables of a run, and where its results are kept."""

import pytest

from benchmarks.gpu.command.result_files import FILES, PROFILE, write_section
from benchmarks.gpu.report import TABLES, markdown_table, report, store

MACHINE = {"gpu": "NVIDIA H200", "driver": "580"}


@pytest.fixture
def results(tmp_path):
    rows = [
        {"kind": "picture", "size": 448, "batch": 41, "ms": 129.0, "items_per_s": 1318.25},
        {"kind": "text", "size": 32, "batch": 512, "failed": "OutOfMemoryError: too much"},
        {"profiled": "text", "size": 32, "batch": 32, "kernels": 474, "shares": {"copy": 0.1}},
    ]
    section = {"machine": MACHINE, "params": {"shape": "2b"}, "rows": rows}
    write_section(tmp_path, "encoder", section)
    records = {"served": {"outcome": "skipped: 10 s are left"}, "encoder": {"outcome": "done"}}
    write_section(tmp_path, "command", {"steps": records})
    (tmp_path / PROFILE).write_text("kernels")
    (tmp_path / "run.log").write_text("log")
    return tmp_path


def test_report_names_the_card_and_shows_rows_failures_and_skipped_steps(results):
    text = report(results)
    assert text.startswith("Measured on NVIDIA H200.")
    assert "### The encoder alone (2b)" in text
    assert "| picture | 448 | 41 | 129.0 | 1,318.25 |" in text
    assert "Failed: text, 32, 512: OutOfMemoryError: too much" in text
    assert "| text | 32 | 32 | 474 | copy 0.1 |" in text
    assert "- served: skipped: 10 s are left" in text
    assert "encoder: done" not in text


def test_run_without_rows_claims_no_machine(tmp_path):
    write_section(tmp_path, "command", {"steps": {"smoke": {"outcome": "skipped: no time"}}})
    assert report(tmp_path).startswith("Nothing was measured.")


def test_step_without_rows_has_no_result(results):
    assert report(results).count("No result.") == len(TABLES) - 2


def test_columns_without_values_are_left_out():
    columns = {"what": "", "tflop_per_s": "TFLOP/s", "gb_per_s": "GB/s"}
    rows = [{"what": "copy", "gb_per_s": 0.0001234}, {"what": "upload", "gb_per_s": None}]
    assert markdown_table(rows, columns) == [
        "|  | GB/s |",
        "|---|---|",
        "| copy | 0.00012 |",
        "| upload |  |",
    ]


def test_results_are_kept_under_the_cards_name(results, tmp_path):
    folder = store(results, tmp_path / "kept")
    assert folder == tmp_path / "kept" / "gpu-nvidia-h200"
    assert {path.name for path in folder.iterdir()} == {"encoder.json", "run.json", PROFILE}


def test_results_of_a_rehearsal_are_not_kept(tmp_path):
    write_section(tmp_path, "encoder", {"machine": {"gpu": None}, "rows": []})
    with pytest.raises(SystemExit, match="not of a GPU"):
        store(tmp_path, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_tables_show_steps_that_exist():
    assert {table.section for table in TABLES} <= set(FILES)
