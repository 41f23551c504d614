"""Whether an answer to a broken request is a right one."""

from __future__ import annotations

import json
from typing import Any

from mutations import Case

STATUSES = frozenset({200, 400, 404, 408, 413, 415})
NAMELESS = ("the body", "the request body")  # messages about no field


def judge(case: Case, status: int, content_type: str, text: str) -> None:
    """Raises AssertionError."""
    assert status in STATUSES, f"status {status}"
    if status != 200:
        _judge_error(case, status, _json(text))
    elif content_type.startswith("text/event-stream"):
        _judge_events(case, text)
    elif content_type.startswith("application/x-ndjson"):
        for line in text.splitlines():
            _no_failure(_json(line))
    else:
        _json(text)


def _json(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: _fail(f"{name} is no JSON"))


def _fail(why: str) -> None:
    raise AssertionError(why)


def _judge_error(case: Case, status: int, body: Any) -> None:
    error = body["error"]
    if case.endpoint.dialect == "ollama":
        message, named = error, error
    else:
        message = error["message"]
        if case.endpoint.dialect == "anthropic":
            assert set(body) == {"type", "error"} and set(error) == {"type", "message"}, body
            named = message
        else:
            assert set(error) == {"message", "type", "param", "code"}, body
            named = error["param"] or ""
    assert isinstance(message, str) and message, "no message"
    assert len(message) < 3000, f"a message of {len(message)} characters"
    if status in (408, 413, 415) or message.startswith(NAMELESS):
        return
    candidates = set(case.fields or ()) | set(case.endpoint.body)
    says = f"{named} {message}"  # where one of two fields is missing, ``param`` is the other
    assert any(name in says for name in candidates) or case.fields is None, "names no field"


def _judge_events(case: Case, text: str) -> None:
    events = [event for event in text.split("\n\n") if event]
    assert events, "an empty stream"
    datas = [event.partition("data: ")[2] for event in events]  # a number stands before some
    for data in datas:
        if data != "[DONE]":
            _no_failure(_json(data))
    if case.endpoint.dialect == "openai" and "completions" in case.endpoint.path:
        assert datas[-1] == "[DONE]" or '"error"' in datas[-1], (
            f"a stream without an end: {events[-1]}"
        )


def _no_failure(event: Any) -> None:
    error = event.get("error") if isinstance(event, dict) else None
    if isinstance(error, dict):
        assert error.get("type") not in ("server_error", "api_error"), event
