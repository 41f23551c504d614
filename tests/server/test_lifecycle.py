"""Clients that hang up, an engine that is killed, ports that are taken."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from running_server import SETTINGS, RunningServer, engine_pid, start_server

LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell me a very long story."}],
    "max_tokens": 1900,
    "ignore_eos": True,
}


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def running(server: RunningServer) -> float:
    return server.metric("num_requests_running") + server.metric("num_requests_waiting")


def test_hanging_up_a_stream_cancels(server: RunningServer) -> None:
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json={**LONG, "stream": True, "n": 2}
    ) as response:
        lines = response.iter_lines()
        while "content" not in next(lines):
            pass
        wait_until(lambda: running(server) == 2)
    wait_until(lambda: running(server) == 0)


def test_hanging_up_before_the_answer_cancels(server: RunningServer) -> None:
    before = server.metric("generation_tokens_total")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json=LONG, timeout=1.0)
    wait_until(lambda: running(server) == 0)
    wait_until(lambda: server.metric("generation_tokens_total") > before)
    assert server.metric("generation_tokens_total") - before < LONG["max_tokens"]


def ask_behind_one_another(made: socket.socket, *bodies: dict[str, Any]) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    for body in bodies:
        content = json.dumps(body).encode()
        made.sendall(head % len(content) + content)


@pytest.mark.parametrize("behind", [1, 5])
@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_with_requests_behind_cancels(
    server: RunningServer, *, stream: bool, behind: int
) -> None:
    with socket.create_connection(server.address) as made:
        ask_behind_one_another(made, {**LONG, "stream": stream}, *[LONG] * behind)
        wait_until(lambda: running(server) == 1)
    wait_until(lambda: running(server) == 0, 2)


def test_metrics_count(server: RunningServer, client: openai.OpenAI) -> None:
    def count(name: str) -> float:
        return server.metric(name)

    names = ("prompt_tokens_total", "generation_tokens_total", "time_to_first_token_seconds_count")
    before = {name: count(name) for name in names}
    reply = client.completions.create(model="smollm2", prompt="One, two,", max_tokens=4)
    assert count(names[0]) - before[names[0]] == reply.usage.prompt_tokens
    assert count(names[1]) - before[names[1]] == reply.usage.completion_tokens
    assert count(names[2]) - before[names[2]] == 1
    text = server.http.get("/metrics").text
    for name in ("e2e_request_latency_seconds_bucket", "inter_token_latency_seconds_bucket"):
        assert f"legato:{name}" in text


def test_health_and_version(server: RunningServer) -> None:
    for path in ("/health", "/ready"):
        assert server.http.get(path).json() == {"status": "ready"}
    assert server.http.get("/version").json()["version"].count(".") == 2


@pytest.fixture(scope="module")
def other(model_path: Path) -> Iterator[RunningServer]:
    """A server to be hurt, with a key and a name of its own."""
    started = start_server(
        str(model_path), *SETTINGS, "--api-key", "secret", "--served-model-name", "mine"
    )
    yield started
    started.process.terminate()
    started.process.wait(20)


def client_of(server: RunningServer, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", timeout=60, **options)


def test_key_and_name(other: RunningServer) -> None:
    client = client_of(other, max_retries=0)
    assert [model.id for model in client.models.list()] == ["mine"]
    reply = client.completions.create(model="mine", prompt="a", max_tokens=1)
    assert reply.model == "mine"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="guess").models.list()
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="smollm2", prompt="a")


def test_a_taken_port_is_one_clear_line(server: RunningServer) -> None:
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "-m", "legato.cli", "serve", "--port", port]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr == (
        f"legato: port {port} on 127.0.0.1 is taken: choose another one with --port\n"
    )


def test_an_unusable_model_is_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    command = [sys.executable, "-m", "legato.cli", "serve", str(broken), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "broken.gguf" in ended.stderr and ended.stderr.count("\n") == 1


def test_it_ends_when_told_to(model_path: Path) -> None:
    started = start_server(str(model_path), *SETTINGS)
    engine = engine_pid(started)
    connection = socket.create_connection(("127.0.0.1", int(started.url.rpartition(":")[2])))
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(20) in (0, 130)
    connection.close()
    wait_until(lambda: not Path(f"/proc/{engine}").exists(), 5)


def test_many_clients_that_come_and_go(server: RunningServer, client: openai.OpenAI) -> None:
    """Whoever leaves when: nothing is left running, and the others' answers do not change."""

    def greedy(prompt: str) -> str:
        reply = client.completions.create(
            model="smollm2", prompt=prompt, max_tokens=12, temperature=0
        )
        return reply.choices[0].text

    async def come_and_go(number: int, http: httpx.AsyncClient) -> None:
        body = {"prompt": f"{number} " * (1 + number % 7), "max_tokens": 200, "stream": True}
        body |= {"n": 1 + number % 3, "stop": "zzz", "ignore_eos": True}
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05 * (number % 10)):
                async with http.stream("POST", "/v1/completions", json=body) as response:
                    async for _ in response.aiter_lines():
                        pass

    async def crowd() -> str:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as http:
            steady = asyncio.to_thread(greedy, "Once upon a time")
            answer, *_ = await asyncio.gather(steady, *(come_and_go(i, http) for i in range(40)))
            return answer

    before = greedy("Once upon a time")
    assert asyncio.run(crowd()) == before
    wait_until(lambda: running(server) == 0)
    assert server.metric("kv_cache_usage_perc") == 0
    assert greedy("Once upon a time") == before


def test_clients_that_leave_are_no_errors_in_the_log(model_path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as stderr:
        started = start_server(str(model_path), *SETTINGS, stderr=stderr)
        url = f"{started.url}/v1/chat/completions"
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=LONG, timeout=httpx.Timeout(5, read=0.02))
        with httpx.stream("POST", url, json={**LONG, "stream": True}) as reply:
            assert next(reply.iter_lines())
        with socket.create_connection(started.address) as made:
            ask_behind_one_another(made, {**LONG, "stream": True}, LONG)
            wait_until(lambda: running(started) == 1)
        with socket.create_connection(started.address) as half:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
        wait_until(lambda: running(started) == 0)
        big = {"prompt": "a", "max_tokens": 1, "user": "x" * 10_000_000}
        assert httpx.post(f"{started.url}/v1/completions", json=big, timeout=60).status_code == 200
        started.process.terminate()
        started.process.wait(20)
    assert "Traceback" not in log.read_text() and "ERROR" not in log.read_text()
