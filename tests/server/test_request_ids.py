"""X-Request-Id: taken from the request, checked, sent back whatever becomes of the request; and the log."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import SETTINGS, RunningServer, engine_pid, start_server, start_silent_server

SECRET = "Xylophon-7261"  # in a prompt: must not be in the log
ID = "trace.7:Root=1-a_b/c+d@e"


def test_it_comes_back(server: RunningServer) -> None:
    given = {"x-request-id": ID}
    body = {"prompt": "One,", "max_tokens": 2}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/completions", {"json": body}),
        ("POST", "/v1/completions", {"json": {**body, "stream": True}}),
        ("POST", "/v1/completions", {"json": {**body, "stream": True, "resume_window": 5}}),
        ("POST", "/v1/completions", {"json": {**body, "max_tokens": -1}}),
        ("POST", "/v1/completions", {"content": b"{"}),
        ("POST", "/v1/completions", {"json": {**body, "stream": True, "timeout": 1e-9}}),
        ("POST", "/v1/messages", {"json": {}}),
        ("GET", "/v1/streams/none", {}),
        ("GET", "/health", {}),
        ("GET", "/metrics", {}),
        ("GET", "/nothing", {}),
        ("PUT", "/health", {}),
    ]
    for method, path, options in asked:
        reply = httpx.request(method, server.url + path, headers=given, timeout=60, **options)
        assert reply.headers.get_list("x-request-id") == [ID], (method, path, reply.status_code)


def test_anthropics_clients_find_it(server: RunningServer) -> None:
    for body in ({}, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}):
        reply = httpx.post(f"{server.url}/v1/messages", json=body, timeout=60)
        assert reply.headers["request-id"] == reply.headers["x-request-id"]
    assert "request-id" not in httpx.get(f"{server.url}/health").headers


def test_one_is_made(server: RunningServer) -> None:
    made = {httpx.get(f"{server.url}/health").headers["x-request-id"] for _ in range(20)}
    assert len(made) == 20 and all(len(one) == 32 for one in made)


@pytest.mark.parametrize("bad", ["", "a b", "a" * 129, "a;b", 'a"', "a\tb", "\u00e4"])
def test_a_bad_one_is_refused(server: RunningServer, bad: str) -> None:
    headers = [(b"x-request-id", bad.encode())]
    body = {"prompt": "One,", "max_tokens": 1}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "X-Request-Id"
    assert len(reply.headers["x-request-id"]) == 32
    told = httpx.post(f"{server.url}/v1/messages", json=body, headers=headers)
    assert told.status_code == 400 and told.json()["type"] == "error"  # in Anthropic's shape
    assert httpx.get(f"{server.url}/health", headers=headers).status_code == 200


def test_two_are_refused(server: RunningServer) -> None:
    headers = [(b"x-request-id", b"a"), (b"x-request-id", b"b")]
    reply = httpx.post(f"{server.url}/v1/completions", json={"prompt": "One,"}, headers=headers)
    assert reply.status_code == 400 and "2 times" in reply.text


class Logged:
    """A server of its own and what it has logged."""

    def __init__(self, server: RunningServer, path: Path) -> None:
        self.server, self.path = server, path

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def records(self, **wanted: Any) -> list[dict[str, Any]]:
        """Once there is one."""
        deadline = time.monotonic() + 10
        while True:
            lines = [json.loads(line) for line in self.text().splitlines()]
            found = [
                one for one in lines if all(one.get(key) == is_ for key, is_ in wanted.items())
            ]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


def logged(*flags: str) -> Iterator[Logged]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        with open(path, "w", encoding="utf-8") as stderr:
            start = start_silent_server if "json" in flags else start_server
            started = start("smollm2", *SETTINGS, *flags, stderr=stderr)
        yield Logged(started, path)
        started.process.terminate()
        started.process.wait(20)


@pytest.fixture(scope="module")
def plain() -> Iterator[Logged]:
    yield from logged("--log-level", "debug")


@pytest.fixture(scope="module")
def in_json(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    yield from logged("--log-format", "json", "--log-prompts", "--api-key", "one-key-4711")


KEY = {"authorization": "Bearer one-key-4711"}


def test_json_lines(in_json: Logged) -> None:
    server = in_json.server
    body = {"prompt": f"{SECRET}\n", "max_tokens": 3, "n": 2, "temperature": 0, "ignore_eos": True}
    headers = {**KEY, "x-request-id": "mine"}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers).json()
    [answer] = in_json.records(request_id="mine", logger="legato.answers")
    usage = reply["usage"]
    assert answer["answer"] == reply["id"] and answer["level"] == "info"
    assert answer["prompt_tokens"] == usage["prompt_tokens"]
    assert answer["completion_tokens"] == usage["completion_tokens"] == 6
    assert answer["finish_reasons"] == "length,length"
    assert 0 <= answer["queue_seconds"] <= answer["first_token_seconds"] <= answer["seconds"] < 60
    assert answer["prompt"] == f"{SECRET}\n"  # asked for by --log-prompts
    [call] = in_json.records(request_id="mine", logger="legato.http")
    assert (call["method"], call["path"], call["status"]) == ("POST", "/v1/completions", 200)
    assert call["seconds"] >= answer["seconds"] - 0.01


def test_what_goes_wrong_is_told(in_json: Logged) -> None:
    server = in_json.server
    url = f"{server.url}/v1/completions"
    body = {"prompt": "One,", "max_tokens": 1500, "ignore_eos": True}
    headers = {**KEY, "x-request-id": "late"}
    late = httpx.post(url, json={**body, "timeout": 0.3}, headers=headers, timeout=60)
    assert late.status_code == 408
    [answer] = in_json.records(request_id="late", logger="legato.answers")
    assert answer["error"] == "DeadlineError" and answer["finish_reasons"] == "abort"
    assert in_json.records(request_id="late", status=408)
    with (
        pytest.raises(httpx.ReadTimeout),
    ):
        httpx.post(url, json=body, headers={**KEY, "x-request-id": "left"}, timeout=0.5)
    assert in_json.records(request_id="left", status=499)
    assert httpx.post(url, json=body, headers={"x-request-id": "who"}).status_code == 401
    assert in_json.records(request_id="who", status=401)
    assert "one-key-4711" not in in_json.text()


def test_an_engine_that_dies_is_told_in_json(in_json: Logged) -> None:
    subprocess.run(["kill", "-9", str(engine_pid(in_json.server))], check=True)
    [dead] = in_json.records(logger="legato.server.bridge", level="error")
    assert "SIGKILL" in dead["message"]
    assert in_json.records(logger="legato.server.bridge", level="warning")


def test_prompts_are_not_logged_unless_asked(plain: Logged) -> None:
    url = plain.server.url
    chat = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 2}
    for path, body in (
        ("/v1/completions", {"prompt": SECRET, "max_tokens": 2}),
        ("/v1/completions", {"prompt": SECRET, "max_tokens": 2, "stream": True}),
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "max_tokens": -1}),
        ("/v1/messages", {**chat, "model": "smollm2"}),
        ("/v1/chat/completions", {**chat, "timeout": 1e-6}),
        ("/v1/completions", {"prompt": SECRET, SECRET: 1}),
    ):
        httpx.post(url + path, json=body, timeout=60)
    httpx.get(f"{url}/ready", headers={"x-request-id": "seen"})
    deadline = time.monotonic() + 10
    while "request_id=seen" not in plain.text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "legato.answers" in plain.text() and SECRET not in plain.text()


def test_clients_cannot_write_lines(plain: Logged) -> None:
    httpx.get(f"{plain.server.url}/a%0a2026-01-01 ERROR forged")
    body = {"prompt": "a", "max_tokens": 1, "request_id": "x\n2026-01-01 ERROR forged"}
    httpx.post(f"{plain.server.url}/v1/completions", json=body, timeout=60)
    time.sleep(0.3)
    assert not [line for line in plain.text().splitlines() if line.startswith("2026-01-01")]
