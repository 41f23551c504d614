"""What clients may do with HTTP itself: requests one behind the other, old versions, offers of newer ones."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from running_server import RunningServer

BODY = b'{"prompt": "One, two,", "max_tokens": 2, "temperature": 0}'
UPGRADE = (
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
)


def posted(body: bytes = BODY, headers: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = b"POST /v1/completions HTTP/%s\r\nhost: x\r\n%scontent-length: %d\r\n\r\n"
    return head % (version, headers, len(body)) + body


def connected(server: RunningServer) -> socket.socket:
    return socket.create_connection(server.address, timeout=30)


def replies(made: socket.socket, number: int) -> list[tuple[int, Any]]:
    """Status and JSON of the next responses on the connection."""
    found = []
    with made.makefile("rb") as lines:
        for _ in range(number):
            status = int(lines.readline().split()[1])
            headers = dict(line.split(b": ") for line in iter(lines.readline, b"\r\n"))
            found.append((status, json.loads(lines.read(int(headers[b"content-length"])))))
    return found


def text(reply: Any) -> str:
    return str(reply["choices"][0]["text"])


CUTS = {"in one piece": [], "head and body": [-len(BODY)], "anywhere": [*range(1, 200, 7)]}


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_an_upgrade_that_is_offered_is_no_matter(server: RunningServer, cuts: list[int]) -> None:
    """Java's own client and `curl --http2` offer one with each request."""
    whole = posted(headers=UPGRADE)
    chunked = whole[: -len(BODY)].replace(b"content-length: 58", b"transfer-encoding: chunked")
    chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    with connected(server) as made:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in (whole, chunked, posted()):
            for start, end in zip([0, *cuts], [*cuts, len(request)], strict=True):
                made.sendall(request[start:end])
            [(status, reply)] = replies(made, 1)
            assert status == 200 and text(reply) == " or three"
        made.sendall(whole * 3)
        assert [status for status, _ in replies(made, 3)] == [200] * 3


@pytest.mark.parametrize("line", [b"", b"x: a\r\n"], ids=["one line", "many lines"])
@pytest.mark.parametrize("size", [30_000, 65_000, 70_000, 80_000, 100_000])
def test_a_head_may_have_64_kb(server: RunningServer, size: int, line: bytes) -> None:
    """Also one that comes in one piece with what is behind it."""
    headers = line * (size // 6) or b"x-pad: %s\r\n" % (b"a" * size)
    with connected(server) as made:
        made.sendall(posted(headers=headers))
        try:
            [(status, reply)] = replies(made, 1)
        except ConnectionResetError:  # it may overtake what was said
            status, reply = 431, None
    assert status == (200 if size < 65_536 else 431)
    if status == 431 and reply is not None:
        assert "larger than 65536 bytes" in reply["error"]["message"]


BEHIND = {"garbage": b"hello\r\n\r\n", "a long head": b"GET / HTTP/1.1\r\nx: " + b"a" * 300_000}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_behind_a_request_is_not_told_in_its_answer(
    server: RunningServer, *, stream: bool, behind: bytes
) -> None:
    fields = {"max_tokens": 100, "ignore_eos": True, "stream": stream}
    with connected(server) as made:
        made.sendall(posted(json.dumps({**json.loads(BODY), **fields}).encode()) + behind)
        whole = b"".join(iter(lambda: made.recv(65536), b""))
    assert whole.count(b"HTTP/1.1 ") == whole.count(b"HTTP/1.1 200 OK") == 1
    assert whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}}")


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_knows_no_chunks(server: RunningServer, *, stream: bool) -> None:
    body = json.dumps({**json.loads(BODY), "stream": stream}).encode()
    with connected(server) as made:
        made.sendall(posted(body, version=b"1.0"))
        whole = b"".join(iter(lambda: made.recv(65536), b""))  # it ends with the connection
    head, _, said = whole.partition(b"\r\n\r\n")
    assert b" 200 " in head and b"chunked" not in head
    if stream:
        assert b"content-length" not in head
        assert said.startswith(b"data: {") and said.endswith(b"\n\ndata: [DONE]\n\n")
    else:
        assert b"content-length: %d" % len(said) in head and text(json.loads(said))


PROBED = ("/health", "/ready", "/v1/models", "/api/tags", "/api/version", "/")


@pytest.mark.parametrize("path", PROBED)
def test_head_is_get_without_its_body(server: RunningServer, path: str) -> None:
    with server.http as http:
        got, head = http.get(path), http.head(path)
    assert head.status_code == 200 and head.content == b""
    for name in ("content-type", "content-length"):
        assert head.headers[name] == got.headers[name]


def test_a_slash_at_the_end_is_no_name_of_a_model(server: RunningServer) -> None:
    with server.http as http:
        assert http.get("/v1/models/").json() == http.get("/v1/models").json()
