"""The metrics under Prometheus itself, where it is installed (Debian: ``apt install prometheus``): it likes what
it reads, and answers each question of the dashboard."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import SETTINGS, RunningServer, start_server

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"
RATE = "6s"  # what Grafana would put for $__rate_interval at this scrape interval
NAMES = (
    "metric names should not contain ':'",
    'legato:iteration_tokens_total non-counter metrics should not have "_total" suffix',
)
"""Prometheus has rules for names; these are vLLM's, whose dashboards then fit."""

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="no Prometheus here",
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def busy(model_path: Path) -> Iterator[RunningServer]:
    """A server that answers all the while."""
    started = start_server(str(model_path), *SETTINGS, "--served-model-name", "smollm2")
    ends = threading.Event()

    def ask() -> None:
        body = {"prompt": "word " * 40, "max_tokens": 12}
        schema = {**body, "guided_json": {"type": "object", "properties": {"a": {"const": 1}}}}
        while not ends.is_set():
            for one in (body, schema, {"prompt": 7}):
                started.http.post("/v1/completions", json=one)

    asking = threading.Thread(target=ask)
    asking.start()
    yield started
    ends.set()
    asking.join()
    started.process.terminate()
    started.process.wait(20)


@pytest.fixture(scope="module")
def prometheus(busy: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL, when it has looked at the server for a while."""
    folder = tmp_path_factory.mktemp("prometheus")
    target = busy.url.removeprefix("http://")
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: legato, static_configs: [{{targets: ['{target}']}}]}}]\n",
        encoding="utf-8",
    )
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_samples(url)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def wait_for_samples(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            found = query(url, "count_over_time(legato:num_requests_running[1m])")
            if found and float(found[0]["value"][1]) >= 10:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError("Prometheus does not read /metrics")


def query(url: str, expression: str) -> list[dict[str, Any]]:
    reply = httpx.post(f"{url}/api/v1/query", data={"query": expression}, timeout=20).json()
    assert reply["status"] == "success", (expression, reply)
    result: list[dict[str, Any]] = reply["data"]["result"]
    return result


def test_promtool_finds_nothing_but_the_names(busy: RunningServer) -> None:
    text = busy.http.get("/metrics").text
    said = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    lines = (said.stdout + said.stderr).splitlines()
    assert lines and not [line for line in lines if not any(name in line for name in NAMES)]


def test_every_question_of_the_dashboard_is_answered(prometheus: str) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(targets) > 30
    empty = []
    for target in targets:
        expression = target["expr"].replace("$instance", ".*").replace("$__rate_interval", RATE)
        values = [float(one["value"][1]) for one in query(prometheus, expression)]
        if not [value for value in values if math.isfinite(value)]:
            empty.append((expression, values))
    assert not empty


def test_the_dashboard_finds_its_servers(prometheus: str, busy: RunningServer) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked = next(one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query")
    metric, label = asked.removeprefix("label_values(").removesuffix(")").split(", ")
    reply = httpx.get(f"{prometheus}/api/v1/label/{label}/values", params={"match[]": metric})
    assert reply.json()["data"] == [busy.url.removeprefix("http://")]
