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
