"""Debian's Prometheus with the files of deploy/, on windows of seconds instead of minutes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from lensemble.operations.ports import LOOPBACK, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "lensemble.json"
# Replaces every window of a rate, and Grafana's own window.
WINDOW = "10s"
_SECONDS = "1s"
_START_S = 30.0
_STOP_S = 10.0


def installed() -> bool:
    """Tells whether Debian's `prometheus` is installed."""
    return shutil.which("prometheus") is not None


def with_short_windows(expression: str) -> str:
    """Returns an expression with windows of seconds instead of minutes.

    Args:
        expression: PromQL expression, or a whole file of rules.
    """
    return re.sub(r"\[(\d+[smh]|\$__rate_interval)\]", f"[{WINDOW}]", expression)


def dashboard() -> dict[str, list[tuple[str, str]]]:
    """Returns panel of the dashboard -> its expressions, each with its legend."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        panel["title"]: [(target["expr"], target["legendFormat"]) for target in panel["targets"]]
        for panel in panels
    }


class Prometheus:
    """A context manager that runs Prometheus, which scrapes and checks alerts once a second.

    Args:
        folder: Folder for its data and files, which is made.
        targets: Job of deploy/prometheus/prometheus.yml -> `host:port` to scrape.
        key: File with the gateway's key for metrics.
    """

    def __init__(self, folder: Path, targets: Mapping[str, str], key: Path) -> None:
        folder.mkdir(parents=True)
        rules = with_short_windows((DEPLOY / "prometheus" / "alerts.yml").read_text())
        (folder / "alerts.yml").write_text(re.sub(r"for: \w+", f"for: {_SECONDS}", rules))
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), _SECONDS)
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
            if "authorization" in job:
                job["authorization"] = {"credentials_file": str(key)}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._address = f"{LOOPBACK}:{free_port()}"
        self._log = folder / "log"
        self._command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self._address}",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + _START_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self._stop()
                raise RuntimeError(f"prometheus did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Returns the current value of an expression: `metric` and `value` of each series."""
        series: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return series

    def history(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Returns an expression's value for each second: `metric` and `values` of each series.

        Args:
            expression: PromQL expression.
            start: Start, in seconds since 1970.
            end: End, in seconds since 1970.
        """
        series: list[dict[str, Any]] = self._get(
            "query_range", query=expression, start=start, end=end, step=_SECONDS
        )["result"]
        return series

    def firing(self) -> set[str]:
        """Returns the names of the firing alerts."""
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _get(self, route: str, **parameters: Any) -> Any:
        url = f"http://{self._address}/api/v1/{route}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from error

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=1):
                return True
        except OSError:
            return False

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
