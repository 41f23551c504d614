"""Grammars that cost much harm nobody but who sent them."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from running_server import RunningServer
from test_structured import FORMAT, ask, check, say


def test_others_are_served_while_a_grammar_is_tried(client: openai.OpenAI) -> None:
    """The slowest grammars keep neither the event loop nor the engine."""
    slow = {"guided_json": {"patternProperties": {f"^{i:05}": {} for i in range(900)}}}
    refused: list[Exception] = []

    def explode() -> None:
        try:
            ask(client, extra_body=slow)
        except openai.BadRequestError as error:
            refused.append(error)

    thread = threading.Thread(target=explode)
    thread.start()
    served = 0
    while thread.is_alive():
        client.models.list()
        ask(client, max_tokens=1)
        served += 1
    assert refused and served >= 3


def test_health_answers_while_grammars_are_compiled(
    client: openai.OpenAI, server: RunningServer
) -> None:
    """Large grammars and hopeless ones, all at once: the server's process has no part in it."""
    bodies: list[dict[str, Any]] = [
        {"guided_choice": [f"{k} word {i * 7919 % 10007}" for i in range(3000)]} for k in range(3)
    ]
    for k in range(3):
        names = {f"name {k} {i}": {"type": "string", "maxLength": 99} for i in range(500)}
        bodies.append({"guided_json": {"type": "object", "properties": names}})
        bodies.append(
            {"guided_json": {"patternProperties": {f"^{k}{i:04}": {} for i in range(900)}}}
        )
    asking = [threading.Thread(target=one_way_or_the_other, args=(client, one)) for one in bodies]
    for thread in asking:
        thread.start()
    waits = []
    with httpx.Client(base_url=server.url, timeout=60) as http:
        while any(thread.is_alive() for thread in asking):
            started = time.monotonic()
            assert http.get("/health").status_code == 200
            waits.append(time.monotonic() - started)
            time.sleep(0.02)
    print(f"\n/health while {len(bodies)} grammars are compiled: {max(waits):.3f} s at most")
    assert max(waits) < 5  # 0.03 on a machine that does little else


def one_way_or_the_other(client: openai.OpenAI, body: dict[str, Any]) -> None:
    with suppress(openai.BadRequestError):
        ask(client, extra_body=body, max_tokens=2)


def test_a_grammar_that_becomes_too_costly_ends_its_own_answer_only(
    client: openai.OpenAI, server: RunningServer
) -> None:
    source = r"(.*[a-m].{12}[n-z].*[a-m].{15}[n-z])+"
    with pytest.raises(openai.APIError, match="the grammar .*too many"):
        ask(
            client,
            extra_body={"guided_regex": source, "ignore_eos": True},
            max_tokens=1500,
            temperature=1.5,
            seed=1,
        )
    assert server.process.poll() is None
    check(say(client, response_format=FORMAT))


def test_a_limit_that_a_token_meets_is_the_grammars_fault(client: openai.OpenAI) -> None:
    """The mask was within the limits, what it allowed is not."""
    for count in (77, 543_210):
        with pytest.raises(openai.BadRequestError, match="too complex") as caught:
            ask(client, extra_body={"guided_regex": f"(a{{1000}}){{1000}}b{{{count}}}"})
        assert caught.value.param == "guided_regex"
