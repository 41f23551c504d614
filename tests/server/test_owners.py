"""What is kept belongs to the API key that it was made with; clients that stall are let go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import SETTINGS, RunningServer, start_server
from storms import never_readers, settled

ONE, TWO = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
BODY: dict[str, Any] = {"prompt": "One,", "max_tokens": 3, "temperature": 0}
ENDLESS = {**BODY, "max_tokens": 1500, "ignore_eos": True}


@pytest.fixture(scope="module")
def shared(model_path: Path) -> Iterator[RunningServer]:
    flags = ("--api-key", "one,two", "--max-kept-streams", "3", "--stall-timeout", "2")
    started = start_server(str(model_path), *SETTINGS, *flags)
    yield started
    started.process.terminate()
    started.process.wait(20)


def keep(server: RunningServer, key: dict[str, str], **fields: Any) -> str:
    """The id of a stream that is kept."""
    body = {**BODY, "stream": True, "resume_window": 60, **fields}
    reply = httpx.post(f"{server.url}/v1/completions", json=body, headers=key, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-stream-id"]


def test_a_stream_is_only_its_keys(shared: RunningServer) -> None:
    name = keep(shared, ONE)
    url = f"{shared.url}/v1/streams/{name}"
    own = httpx.get(url, headers=ONE)
    assert own.status_code == 200 and own.text.endswith("data: [DONE]\n\n")
    unknown = httpx.get(f"{shared.url}/v1/streams/cmpl-none", headers=TWO)
    for foreign in (httpx.get(url, headers=TWO), httpx.delete(url, headers=TWO)):
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.json()["error"]["code"] == "stream_not_found"
        message = foreign.json()["error"]["message"].replace(name, "cmpl-none")
        assert message == unknown.json()["error"]["message"]  # not even that there is one
    assert httpx.delete(url, headers=ONE).status_code == 200


def test_the_same_name_with_two_keys(shared: RunningServer) -> None:
    """Neither hinders nor replaces the other's."""
    for key, prompt in ((ONE, "One,"), (TWO, "Green,")):
        keep(shared, key, request_id="chosen", prompt=prompt)
    texts = {
        httpx.get(f"{shared.url}/v1/streams/cmpl-chosen", headers=key).text for key in (ONE, TWO)
    }
    assert len(texts) == 2
    for key in (ONE, TWO):
        gone = httpx.delete(f"{shared.url}/v1/streams/cmpl-chosen", headers=key)
        assert gone.status_code == 200


@pytest.mark.parametrize("background", [False, True])
def test_a_response_is_only_its_keys(shared: RunningServer, *, background: bool) -> None:
    url = f"{shared.url}/v1/responses"
    body = {"input": "The word is Xylophone.", "max_output_tokens": 5, "background": background}
    made = httpx.post(url, json=body, headers=ONE, timeout=60).json()
    place = f"{url}/{made['id']}"
    for reply in (
        httpx.get(place, headers=TWO),
        httpx.get(f"{place}?stream=true", headers=TWO),
        httpx.get(f"{place}/input_items", headers=TWO),
        httpx.post(f"{place}/cancel", headers=TWO),
        httpx.delete(place, headers=TWO),
    ):
        assert reply.status_code == 404, reply.text
    follow = {"input": "What is the word?", "previous_response_id": made["id"]}
    refused = httpx.post(url, json=follow, headers=TWO)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "previous_response_not_found"
    settled(lambda: httpx.get(place, headers=ONE).json()["status"] != "in_progress")
    assert httpx.post(url, json=follow, headers=ONE, timeout=60).status_code == 200
    assert httpx.delete(place, headers=ONE).status_code == 200


def test_the_number_of_kept_streams_is_bounded(shared: RunningServer) -> None:
    """The oldest that is complete makes room; where none is, a 429."""
    url = f"{shared.url}/v1/streams"
    names = [keep(shared, ONE, prompt=str(number)) for number in range(4)]
    found = [httpx.get(f"{url}/{name}", headers=ONE).status_code for name in names]
    assert found == [404, 200, 200, 200] and shared.metric("kept_streams") == 3
    growing = []
    for number in range(3):
        body = {**ENDLESS, "stream": True, "resume_window": 60, "prompt": f"long {number}"}
        with httpx.stream(
            "POST", f"{shared.url}/v1/completions", json=body, headers=ONE, timeout=60
        ) as reply:
            growing.append(reply.headers["x-stream-id"])
    body = {**BODY, "stream": True, "resume_window": 60}
    refused = httpx.post(f"{shared.url}/v1/completions", json=body, headers=TWO)
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    assert "3 streams are kept" in refused.json()["error"]["message"]
    plain = httpx.post(
        f"{shared.url}/v1/completions", json={**BODY, "stream": True}, headers=TWO, timeout=60
    )
    assert plain.status_code == 200  # who need not come back is served
    for name in growing:
        assert httpx.delete(f"{url}/{name}", headers=ONE).status_code == 200
    settled(lambda: shared.metric("num_requests_running") == 0)


def test_a_client_that_stalls_is_let_go() -> None:
    """--stall-timeout 2: it reads nothing, its buffers are full; soon it has no connection any more, and
    its answer is cancelled. One that reads slowly is left alone."""
    started = start_server("smollm2", *SETTINGS, "--stall-timeout", "2")
    try:
        sockets = never_readers(started, 4, 1900)
        settled(lambda: started.metric("num_requests_running") == 4)
        slow, reads = sockets[0], 0
        begun = time.monotonic()
        while started.metric("num_requests_running") > 1:
            assert time.monotonic() - begun < 60
            reads += len(slow.recv(65536))
            time.sleep(0.2)
        aborted = 'finished_reason="abort"'
        settled(lambda: started.metric("request_success_total", aborted) == 3)
        assert reads
        for made in sockets[1:]:
            with pytest.raises(OSError):
                while made.recv(65536):
                    pass
        assert slow.recv(65536)
        for made in sockets:
            made.close()
    finally:
        started.process.terminate()
        assert started.process.wait(40) == 0
