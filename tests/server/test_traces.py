"""Traces reach a collector: a small one, which speaks OTLP over HTTP."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from running_server import SETTINGS, RunningServer, start_server

from legato.config import ServerConfig, child_environment

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[Any] = []
        self.paths: list[str] = []
        self.resources: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of(self, trace: str, count: int) -> dict[str, Any]:
        """The spans of a trace by name, once there are so many."""
        deadline = time.monotonic() + 20
        while True:
            found = {span.name: span for span in self.spans if span.trace_id.hex() == trace}
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.05)


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers.get("content-encoding") is None
        self.server.paths.append(self.path)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resources.append(plain(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_: Any) -> None:
        pass


def plain(attributes: Any) -> dict[str, Any]:
    def value(one: Any) -> Any:
        kind = one.WhichOneof("value")
        if kind == "array_value":
            return [value(part) for part in one.array_value.values]
        return getattr(one, kind)

    return {one.key: value(one.value) for one in attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[RunningServer]:
    started = start_server("smollm2", *SETTINGS, "--otlp-traces-endpoint", collector.url)
    yield started
    started.process.terminate()
    started.process.wait(20)


def test_an_answers_spans(collector: Collector, traced: RunningServer) -> None:
    before = time.time_ns()
    reply = httpx.post(
        f"{traced.url}/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": "Count to ten."}],
            "max_tokens": 8,
            "temperature": 0.5,
            "seed": 7,
            "ignore_eos": True,
        },
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"},
        timeout=60,
    ).json()
    after = time.time_ns()
    spans = collector.of(TRACE, 4)
    assert set(spans) == {"chat smollm2", "queue", "prefill", "decode"}
    whole = spans["chat smollm2"]
    assert whole.parent_span_id.hex() == PARENT
    phases = [spans[name] for name in ("queue", "prefill", "decode")]
    assert all(phase.parent_span_id == whole.span_id for phase in phases)
    edges = [whole.start_time_unix_nano]
    for phase in phases:
        edges += [phase.start_time_unix_nano, phase.end_time_unix_nano]
    edges.append(whole.end_time_unix_nano)
    tolerance = 1_000_000  # two clocks, read one after the other
    assert before - tolerance <= edges[0] and edges[-1] <= after + tolerance
    assert edges == sorted(edges) and edges[4] > edges[3] and edges[6] > edges[5]
    said = plain(whole.attributes)
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == "smollm2"
    assert said["gen_ai.response.id"] == reply["id"]
    assert said["gen_ai.usage.input_tokens"] == reply["usage"]["prompt_tokens"]
    assert said["gen_ai.usage.output_tokens"] == 8
    assert said["gen_ai.request.max_tokens"] == 8 and said["gen_ai.request.temperature"] == 0.5
    assert said["gen_ai.request.seed"] == 7
    assert said["gen_ai.response.finish_reasons"] == ["length"]
    assert said["legato.request_id"] == "mine"
    first = said["gen_ai.latency.time_to_first_token"]
    assert first == pytest.approx((edges[4] - edges[0]) / 1e9, abs=0.002)
    assert "prompt" not in " ".join(said)
    assert collector.paths[-1] == "/v1/traces"
    assert collector.resources[-1]["service.name"] == "legato"


def test_a_deadline_is_an_error(collector: Collector, traced: RunningServer) -> None:
    trace = "a" * 32
    httpx.post(
        f"{traced.url}/v1/completions",
        json={"prompt": "One,", "max_tokens": 1500, "ignore_eos": True, "timeout": 0.3},
        headers={"traceparent": f"00-{trace}-{PARENT}-01"},
        timeout=60,
    )
    whole = collector.of(trace, 3)["text_completion smollm2"]
    assert whole.status.code == 2 and plain(whole.attributes)["error.type"] == "DeadlineError"


def test_who_does_not_sample_gets_no_spans(collector: Collector, traced: RunningServer) -> None:
    body = {"prompt": "One,", "max_tokens": 1}
    for trace, flag in (("b" * 32, "00"), ("c" * 32, "01")):
        headers = {"traceparent": f"00-{trace}-{PARENT}-{flag}"}
        httpx.post(f"{traced.url}/v1/completions", json=body, headers=headers, timeout=60)
    collector.of("c" * 32, 3)
    assert not [span for span in collector.spans if span.trace_id.hex() == "b" * 32]


@pytest.mark.parametrize("bad", ["", "00-zz-1-01", "x" * 5000, f"00-{'0' * 32}-{PARENT}-01"])
def test_a_bad_traceparent_begins_a_trace_of_its_own(
    collector: Collector, traced: RunningServer, bad: str
) -> None:
    count = len(collector.spans)
    body = {"prompt": "One,", "max_tokens": 1}
    headers = {"traceparent": bad}
    reply = httpx.post(f"{traced.url}/v1/completions", json=body, headers=headers, timeout=60)
    assert reply.status_code == 200
    deadline = time.monotonic() + 20
    while not any(span.name.startswith("text") for span in collector.spans[count:]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    whole = next(span for span in collector.spans[count:] if span.name.startswith("text"))
    assert whole.parent_span_id == b""


def test_a_collector_that_is_not_there_harms_nobody() -> None:
    """Spans wait in a thread; the server ends in time."""
    started = start_server("smollm2", *SETTINGS, "--otlp-traces-endpoint", "http://127.0.0.1:9")
    for _ in range(3):
        asked = time.monotonic()
        body = {"prompt": "One,", "max_tokens": 1}
        assert httpx.post(f"{started.url}/v1/completions", json=body, timeout=60).status_code == 200
        assert time.monotonic() - asked < 8  # the exporter tries for ten
    started.process.terminate()
    assert started.process.wait(20) == 0


def test_where_traces_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def endpoint(given: str | None) -> str | None:
        return ServerConfig(otlp_traces_endpoint=given).resolved_otlp_traces_endpoint

    assert endpoint(None) is None
    assert endpoint("http://c:4318") == endpoint("http://c:4318/") == "http://c:4318/v1/traces"
    assert endpoint("http://c:4318/own") == "http://c:4318/own"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all/")
    assert endpoint(None) == "http://all/v1/traces" and endpoint("http://c/x") == "http://c/x"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own/as-it-is")
    assert endpoint(None) == "http://own/as-it-is"


def test_without_the_packages_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from legato.server.tracing import Tracing\n"
        "Tracing('http://127.0.0.1:9')"
    )
    environment = child_environment()
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert ended.returncode != 0 and "pip install 'legato[otel]'" in ended.stderr
    assert "ConfigError" in ended.stderr
