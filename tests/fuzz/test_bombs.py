"""Requests that are small for what they ask, or just large: each is refused by name, and soon."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from beside import Beside
from running_server import RunningServer, engine_pid

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
A: dict[str, Any] = {"prompt": "a", "max_tokens": 2}
MILLION = 10**6
SECONDS = 40.0
"""In which each is answered, though others are served and the machine is busy."""


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def branching(depth: int) -> dict[str, Any]:
    """A schema whose references meet twice at every level."""
    levels = {f"l{i}": {"anyOf": [{"$ref": f"#/$defs/l{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": {**levels, f"l{depth}": {"type": "null"}}, "$ref": "#/$defs/l0"}


def template(text: str) -> dict[str, Any]:
    return {**HI, "chat_template": text}


def schema(value: Any) -> dict[str, Any]:
    wrapped = {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
    return {**HI, "response_format": wrapped}


# name: path, body, statuses, the field's name
BOMBS: dict[str, tuple[str, Callable[[], Any], set[int], str]] = {
    "a million stop strings": (TEXT, lambda: {**A, "stop": ["x"] * MILLION}, {400}, "stop"),
    "a long stop string": (TEXT, lambda: {**A, "stop": "a" * MILLION}, {400}, "stop"),
    "a million stop tokens": (
        TEXT,
        lambda: {**A, "stop_token_ids": [5] * MILLION},
        {400},
        "stop_token_ids",
    ),
    "a million allowed tokens": (
        TEXT,
        lambda: {**A, "allowed_token_ids": [5] * MILLION},
        {400},
        "allowed_token_ids",
    ),
    "a flood of biases": (
        TEXT,
        lambda: {**A, "logit_bias": {str(i): 1 for i in range(MILLION // 2)}},
        {400},
        "logit_bias",
    ),
    "a bias for every token": (
        TEXT,
        lambda: {**A, "logit_bias": {str(i): i % 7 - 3 for i in range(49152)}},
        {200},
        "",
    ),
    "a million token ids": (TEXT, lambda: {**A, "prompt": [5] * MILLION}, {400}, "prompt"),
    "a million prompts": (TEXT, lambda: {**A, "prompt": ["a"] * MILLION}, {400}, "prompt"),
    "a prompt of megabytes": (TEXT, lambda: {**A, "prompt": "word " * MILLION}, {400}, "prompt"),
    "a word of megabytes": (TEXT, lambda: {**A, "prompt": "a" * 4 * MILLION}, {400}, "prompt"),
    "token ids out of range": (TEXT, lambda: {**A, "prompt": [10**9]}, {400}, "prompt"),
    "negative token ids": (TEXT, lambda: {**A, "prompt": [-1]}, {400}, "prompt"),
    "many choices of many prompts": (
        TEXT,
        lambda: {**A, "prompt": ["a"] * 1024, "n": 128, "timeout": 2},
        {400},
        "n",
    ),
    "tens of thousands of messages": (
        CHAT,
        lambda: {**HI, "messages": HI["messages"] * 60_000},
        {400},
        "messages",
    ),
    "hundreds of thousands of messages": (
        CHAT,
        lambda: {**HI, "messages": HI["messages"] * 300_000},
        {400},
        "",
    ),
    "millions of lists": (TEXT, lambda: {**A, "prompt": [[]] * 4 * MILLION}, {400}, ""),
    "a long field name": (CHAT, lambda: {**HI, "a" * 10 * MILLION: 1}, {400}, "aaa"),
    "a long model name": (CHAT, lambda: {**HI, "model": "a" * 10 * MILLION}, {404}, "model"),
    "a path as the model": (CHAT, lambda: {**HI, "model": "../../etc/passwd"}, {404}, "model"),
    "a long salt": (TEXT, lambda: {**A, "cache_salt": "a" * 10 * MILLION}, {400}, "cache_salt"),
    "a long id": (TEXT, lambda: {**A, "request_id": "a" * 10 * MILLION}, {400}, "request_id"),
    "deep JSON in a field": (CHAT, lambda: {**HI, "metadata": nested(500)}, {400}, "metadata"),
    "deep JSON in a message": (
        CHAT,
        lambda: {**HI, "messages": [{"role": "user", "content": nested(300)}]},
        {400},
        "messages",
    ),
    "deep template variables": (
        CHAT,
        lambda: {**HI, "chat_template_kwargs": nested(300)},
        {400},
        "chat_template_kwargs",
    ),
    "an integer of 400 digits": (CHAT, lambda: {**HI, "top_k": 10**400}, {400}, "top_k"),
    "a deep schema": (CHAT, lambda: schema(nested(100)), {400}, "response_format"),
    "a branching schema": (CHAT, lambda: schema(branching(60)), {200, 400}, "response_format"),
    "a schema that is long": (
        CHAT,
        lambda: schema({"enum": [f"{i}" for i in range(200_000)]}),
        {400},
        "response_format",
    ),
    "a schema that counts": (
        CHAT,
        lambda: schema({"type": "string", "minLength": 10**9, "maxLength": 10**9}),
        {200, 400},
        "response_format",
    ),
    "a regular expression that counts": (
        TEXT,
        lambda: {**A, "guided_regex": "((a{1000}){1000}){1000}"},
        {400},
        "guided_regex",
    ),
    "a regular expression that doubles": (
        TEXT,
        lambda: {**A, "guided_regex": "(.*a){20}[ab]{200}"},
        {200, 400},
        "guided_regex",
    ),
    "parentheses": (TEXT, lambda: {**A, "guided_regex": "(" * 20_000}, {400}, "guided_regex"),
    "a grammar that leads to itself": (
        TEXT,
        lambda: {**A, "grammar": 'root ::= root root | "a" | ""'},
        {200, 400},
        "grammar",
    ),
    "a chain of rules": (
        TEXT,
        lambda: {
            **A,
            "grammar": "root ::= r0\n"
            + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(1500))
            + 'r1500 ::= "a"',
        },
        {200, 400},
        "grammar",
    ),
    "choices": (TEXT, lambda: {**A, "guided_choice": ["x"] * MILLION}, {400}, "guided_choice"),
    "a template that loops": (
        CHAT,
        lambda: template(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        ),
        {400},
        "messages",
    ),
    "a template that grows": (CHAT, lambda: template("{{ 'a' * 999999999 }}"), {400}, "messages"),
    "a template that doubles": (
        CHAT,
        lambda: template(
            "{% set n = namespace(s='a') %}"
            "{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"
        ),
        {400},
        "messages",
    ),
    "a template that calls itself": (
        CHAT,
        lambda: template("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
        {400},
        "messages",
    ),
    "a template with a power": (CHAT, lambda: template("{{ 9 ** 9 ** 9 ** 9 }}"), {400}, "messages"),
    "a template that pads": (CHAT, lambda: template("{{ '%999999999d' % 1 }}"), {400}, "messages"),
    "a template that reaches out": (
        CHAT,
        lambda: template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        {400},
        "messages",
    ),
    "a deep template": (CHAT, lambda: template("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"), {400}, "chat_template"),
    "a template of megabytes": (
        CHAT,
        lambda: template("{{ messages }}" * 50_000),
        {400},
        "chat_template",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb(server: RunningServer, name: str) -> None:
    path, made, statuses, field = BOMBS[name]
    engine = engine_pid(server)
    content = json.dumps(made()).encode()
    started = time.monotonic()
    response = server.http.post(path, content=content)
    took = time.monotonic() - started
    assert response.status_code in statuses, response.text[:500]
    assert took < SECONDS, f"{took:.1f} s"
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(response.text) < 3000
        if response.status_code in (400, 404):
            assert (error["param"] or "").startswith(field), error
    assert engine_pid(server) == engine


@pytest.mark.timeout(300)
def test_all_bombs_at_once_disturb_nobody(server: RunningServer) -> None:
    bodies = [(path, json.dumps(made()).encode()) for path, made, *_ in BOMBS.values()]

    async def throw(http: httpx.AsyncClient) -> list[int]:
        sent = (http.post(path, content=body) for path, body in bodies)
        return [response.status_code for response in await asyncio.gather(*sent)]

    async def everything() -> tuple[list[int], Beside]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        options: Any = {"base_url": server.url, "timeout": 120, "limits": limits}
        async with httpx.AsyncClient(**options) as http, Beside(http) as beside:
            return await throw(http), beside

    statuses, beside = asyncio.run(everything())
    assert all(status < 500 for status in statuses), statuses
    assert beside.slowest < SECONDS and beside.answers > 0
