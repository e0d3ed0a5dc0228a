"""The report as one self-contained HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.load.report.limits import format_failures
from benchmarks.load.report.run_result import RunResult
from benchmarks.load.report.tables import Row, tables, title

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
img { max-width: 100% } pre { background: #f6f6f6; padding: 1rem; overflow: auto }
.passed { color: #176b2c } .failed { color: #b3261e }
"""
_NOTES = (
    "Warm-ups are left out. Latency is that of answered requests, from the time at which they were "
    "due; throughput counts answers that arrived during the step. Late is the time from then until "
    "the generator sent the request: if it is not small, the generator was the bottleneck. Model "
    "times are means per request, and a request waits for its whole batch."
)


def write_page(result: RunResult, plots: Sequence[Path], file: Path) -> None:
    """Writes the report.

    Args:
        result: Result of the run.
        plots: PNG files, which are embedded.
        file: HTML file to write.
    """
    verdict = "failed" if result.failed else "passed"
    body = [
        f"<h1>{escape(title(result))}</h1><p>{escape(result.scenario.about)}</p>",
        f'<h2 class="{verdict}">{verdict}</h2>',
    ]
    if result.failed:
        body.append(f"<pre>{escape(format_failures(result.failed))}</pre>")
    body += [_image(plot) for plot in plots]
    body += [_table(heading, rows) for heading, rows in tables(result)]
    settings = json.dumps(result.scenario.model_dump(exclude_none=True), indent=2)
    body.append(f"<p>{_NOTES}</p><h2>Scenario</h2><pre>{escape(settings)}</pre>")
    file.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{escape(result.scenario.name)}</title><style>{_STYLE}</style>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _table(heading: Row, rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _image(plot: Path) -> str:
    content = base64.b64encode(plot.read_bytes()).decode()
    return f'<p><img alt="{escape(plot.stem)}" src="data:image/png;base64,{content}"></p>'
