"""Clients that do not speak HTTP as one should, or never finish what they began."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from running_server import RunningServer
from storms import settled

LATE = 3.0  # --receive-timeout of this server
BODY = b'{"prompt": "One, two,", "max_tokens": 2, "temperature": 0}'
POST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"


@contextmanager
def connected(server: RunningServer) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=LATE + 15) as made:
        yield made


def told(made: socket.socket) -> tuple[int, Any]:
    """Status and JSON of the first response, once the server has closed the connection."""
    data = b""
    try:
        while part := made.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    if not data:
        return 0, None
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
    "a binary": bytes(range(256)) * 4,
    "HTTP/9": b"GET /health HTTP/9.9\r\n\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
    "bytes beyond ASCII in the path": b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\nnonsense\r\n\r\n",
    "a length that is no number": POST + b"content-length: five\r\n\r\n" + BODY,
    "a negative length": POST + b"content-length: -1\r\n\r\n" + BODY,
    "a length beyond 64 bits": POST + b"content-length: 99999999999999999999999\r\n\r\n" + BODY,
    "two lengths": POST + b"content-length: 5\r\ncontent-length: 7\r\n\r\n" + BODY,
    "a length and chunks": POST
    + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk without a size": POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_http(server: RunningServer, sent: bytes) -> None:
    with connected(server) as made:
        made.sendall(sent)
        status, body = told(made)
    assert status == 400
    assert set(body["error"]) == {"message", "type", "param", "code"}


NEVER_ENDING = {
    "nothing at all": (b"", 0),
    "half a head": (b"POST /v1/compl", 408),
    "a head without its end": (POST, 408),
    "a body that never begins": (POST + b"content-length: 100\r\n\r\n", 408),
    "a length that is too long": (POST + b"content-length: 100\r\n\r\n" + BODY, 408),
    "chunks that never end": (POST + b"transfer-encoding: chunked\r\n\r\n5\r\n{    \r\n", 408),
    "empty lines": (b"\r\n\r\n", 408),
}


@pytest.mark.parametrize(("sent", "status"), NEVER_ENDING.values(), ids=NEVER_ENDING)
def test_what_never_ends_is_ended(server: RunningServer, sent: bytes, status: int) -> None:
    started = time.monotonic()
    with connected(server) as made:
        made.sendall(sent)
        found, body = told(made)
    took = time.monotonic() - started
    assert LATE - 0.5 < took < LATE + 10
    assert found in (status, 408)  # of a connection on which nothing came, one may be told why
    if found:
        assert body["error"]["type"] == "timeout_error"


def test_slowloris(server: RunningServer) -> None:
    """A byte now and then does not keep a connection, however many of them there are."""
    with connected(server) as watched:
        watched.sendall(POST)
        others = [socket.create_connection(server.address) for _ in range(200)]
        started = time.monotonic()
        try:
            while time.monotonic() - started < LATE + 10:
                for one in (watched, *others):
                    one.sendall(b"x-a: b\r\n")
                assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200
                time.sleep(0.2)
        except (BrokenPipeError, ConnectionResetError):
            pass
        took = time.monotonic() - started
        for one in others:
            one.close()
    assert took < LATE + 5


def test_a_slow_body_within_the_time_is_served(server: RunningServer) -> None:
    with connected(server) as made:
        made.sendall(POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        for at in range(0, len(BODY), 10):
            time.sleep(0.1)
            made.sendall(BODY[at : at + 10])
        status, body = told(made)
    assert status == 200 and body["choices"][0]["text"]


def test_an_answer_may_take_longer_than_its_request(server: RunningServer) -> None:
    """Also when the client has begun to send its next one."""
    body = b'{"prompt": "a", "max_tokens": 480, "ignore_eos": true, "n": 4}'
    whole = POST + b"content-length: %d\r\n\r\n" % len(body) + body
    with connected(server) as made:
        made.settimeout(100)
        made.sendall(whole + b"POST /v1/comp")
        head = made.recv(15)
    assert head == b"HTTP/1.1 200 OK"


def test_a_head_of_megabytes(server: RunningServer) -> None:
    with connected(server) as made:
        try:
            for _ in range(200):
                made.sendall(b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000)
        except OSError:
            pass
        status, _ = told(made)
    assert status in (431, 0)  # a reset may overtake what was said


@pytest.mark.parametrize("length", [b"content-length: 99999999", b"transfer-encoding: chunked"])
def test_a_body_that_is_too_large(server: RunningServer, length: bytes) -> None:
    """It is refused before it is here, and what is sent all the same goes nowhere."""
    part = b" " * 1_000_000
    with connected(server) as made:
        made.sendall(POST + length + b"\r\n\r\n")
        with_size = b"%x\r\n%s\r\n" % (len(part), part) if b"chunked" in length else part
        for _ in range(20):
            made.sendall(with_size)
        head = made.recv(100)
    assert head.startswith(b"HTTP/1.1 413")


def test_clients_that_vanish_leave_nothing(server: RunningServer) -> None:
    before = server.metric("num_requests_running")
    whole = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    for cut in range(0, len(whole), 7):
        with connected(server) as made:
            made.sendall(whole[:cut])
            if cut % 2:
                made.shutdown(socket.SHUT_WR)
    settled(lambda: server.metric("num_requests_running") == before)


JSON = {"accept": "application/json"}
TYPES: list[tuple[dict[str, str], int]] = [
    ({}, 200),
    ({"content-type": "application/json; charset=utf-8"}, 200),
    ({"content-type": "application/x-www-form-urlencoded"}, 200),  # curl's, unasked
    ({"content-type": "text/plain"}, 200),
    ({"content-type": "application/vnd.api+json"}, 200),
    ({"content-type": "multipart/form-data; boundary=x"}, 415),
    ({"content-type": "application/xml"}, 415),
    ({"content-type": "image/png"}, 415),
    ({"content-encoding": "gzip"}, 415),
    ({"content-encoding": "identity"}, 200),
]


@pytest.mark.parametrize(("headers", "status"), TYPES)
def test_content_types(server: RunningServer, headers: dict[str, str], status: int) -> None:
    for path in ("/v1/completions", "/v1/messages"):
        body = BODY if path.endswith("completions") else b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}'  # fmt: skip
        response = httpx.post(server.url + path, content=body, headers=headers, timeout=60)
        assert response.status_code == status, response.text
        if status != 200:
            assert "Content-" in response.json()["error"]["message"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "BREW", "DELETE", "OPTIONS"])
def test_methods_that_nothing_has(server: RunningServer, method: str) -> None:
    response = httpx.request(method, f"{server.url}/v1/completions", timeout=10)
    assert response.status_code in (400, 405)
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_an_upgrade_is_not_made(server: RunningServer) -> None:
    headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    response = httpx.get(f"{server.url}/health", headers=headers, timeout=10)
    assert response.status_code == 200
