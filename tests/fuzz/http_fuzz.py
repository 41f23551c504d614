"""Sends mutated requests to a running server, several at once, and judges what comes back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import httpx
from beside import Beside
from mutations import Case, cases
from running_server import RunningServer
from valid_requests import ENDPOINTS
from verdict import judge

MOST_SECONDS = 90.0
"""That any answer may take, among others and on a busy machine."""


@dataclass
class Found:
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    slowest_case: str = ""
    slowest_health: float = 0.0
    beside: int = 0

    @property
    def count(self) -> int:
        return self.statuses.total()


def known_fields(server: RunningServer) -> dict[str, list[str]]:
    """The fields of each path's body, as the server's own description has them."""
    document = server.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    fields = {}
    for path, methods in document["paths"].items():
        body = methods.get("post", {}).get("requestBody")
        if body is not None:
            reference = body["content"]["application/json"]["schema"]["$ref"]
            fields[path] = list(schemas[reference.rpartition("/")[2]]["properties"])
    return fields


async def fuzz(
    server: RunningServer, seed: int, seconds: float, most: int | None = None, at_once: int = 4
) -> Found:
    """For so long, or for the first ``most`` cases of the seed."""
    found = Found()
    endless = islice(cases(ENDPOINTS, known_fields(server), seed), most)
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=MOST_SECONDS, limits=limits) as http:
        async with Beside(http) as beside:
            await asyncio.gather(*(_send(http, endless, end, found) for _ in range(at_once)))
        found.slowest_health, found.beside = beside.slowest, beside.answers
    return found


async def _send(http: httpx.AsyncClient, endless: Iterator[Case], end: float, found: Found) -> None:
    for case in endless:
        if time.monotonic() > end:
            break
        started = time.monotonic()
        try:
            response = await http.request(
                case.endpoint.method, case.endpoint.path, content=case.body
            )
            found.statuses[response.status_code] += 1
            judge(
                case,
                response.status_code,
                response.headers.get("content-type", ""),
                response.text,
            )
        except (AssertionError, httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            answer = "" if isinstance(error, httpx.HTTPError) else response.text[:500]
            found.wrong.append(f"{type(error).__name__} {error}\n  {case.shown}\n  {answer}")
        if time.monotonic() - started > found.slowest:
            found.slowest, found.slowest_case = time.monotonic() - started, case.shown
