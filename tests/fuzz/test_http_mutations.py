"""Nearly right requests against the real server: always an answer, never a failure, nobody disturbed.

``scripts/fuzz_http.py`` does the same for as long as one likes.
"""

from __future__ import annotations

import asyncio

import pytest
from http_fuzz import MOST_SECONDS, fuzz
from running_server import RunningServer, engine_pid
from valid_requests import ENDPOINTS, Endpoint

CASES = 2500  # the same ones each time


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: one.path)
def test_what_is_mutated_is_right(server: RunningServer, endpoint: Endpoint) -> None:
    response = server.http.request(endpoint.method, endpoint.path, json=endpoint.body)
    assert response.status_code == 200, response.text


@pytest.mark.timeout(300)
def test_mutations(server: RunningServer) -> None:
    engine = engine_pid(server)
    found = asyncio.run(fuzz(server, seed=2026, seconds=240, most=CASES))
    assert not found.wrong, f"{len(found.wrong)} of {found.count}:\n" + "\n".join(found.wrong[:5])
    assert found.count == CASES and found.beside > 0
    assert found.slowest < MOST_SECONDS and found.slowest_health < MOST_SECONDS / 3
    assert engine_pid(server) == engine
