"""Every field is served, without effect by declaration, or refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from legato.errors import RequestError
from legato.server.completion_request import CompletionRequest, prompts_of
from legato.server.errors import MAPPING
from legato.server.openai_chat import ChatRequest
from legato.server.protocol import NO_EFFECT, UNSUPPORTED, parse

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("field", sorted(UNSUPPORTED))
def test_unsupported_fields_are_named(field: str) -> None:
    schema, body = (ChatRequest, CHAT)
    with pytest.raises(RequestError) as caught:
        parse({**body, field: {"something": "else"}}, schema)
    assert caught.value.field == field and field in str(caught.value)


@pytest.mark.parametrize("field", sorted(UNSUPPORTED))
def test_unsupported_fields_may_ask_for_nothing(field: str) -> None:
    for value in (*UNSUPPORTED[field], None):
        parse({**CHAT, field: value}, ChatRequest)


@pytest.mark.parametrize("field", sorted(NO_EFFECT))
def test_hints_are_accepted(field: str) -> None:
    parse({**CHAT, field: "anything"}, ChatRequest)


def test_unknown_field_is_named_with_its_neighbour() -> None:
    with pytest.raises(
        RequestError, match="unknown field 'temprature'; did you mean 'temperature'"
    ):
        parse({**CHAT, "temprature": 1}, ChatRequest)


@pytest.mark.parametrize(
    ("change", "field", "complaint"),
    [
        ({"messages": None}, "messages", "messages is required"),
        ({"messages": "hi"}, "messages", "messages: expected array, got str"),
        ({"messages": ["hi"]}, "messages[0]", "messages[0]: expected object, got str"),
        ({"temperature": "1"}, "temperature", "temperature: expected float, got str"),
        ({"n": 1.5}, "n", "n: expected int, got float"),
        ({"stop": [1]}, "stop[0]", "stop[0]: expected str, got int"),
        ({"stream_options": {"usage": 1}}, "stream_options.usage", "unknown field"),
        ({"stream": "yes"}, "stream", "stream: expected bool, got str"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "logit_bias: expected int, got str"),
    ],
)
def test_wrong_types_are_named(change: dict[str, Any], field: str, complaint: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse({**CHAT, **change}, ChatRequest)
    assert caught.value.field == field
    assert complaint in str(caught.value)


def test_logit_bias_has_token_ids_as_keys() -> None:
    assert parse({**CHAT, "logit_bias": {"50": -100}}, ChatRequest).logit_bias == {50: -100.0}


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_come_in_four_shapes(prompt: Any, parts: list[Any]) -> None:
    assert prompts_of(parse({"prompt": prompt}, CompletionRequest)) == parts


@pytest.mark.parametrize("prompt", [[], ["a", 1], [[1], "a"], [[]], ["a", []]])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(RequestError) as caught:
        prompts_of(parse({"prompt": prompt}, CompletionRequest))
    assert caught.value.field == "prompt"


def test_the_documentation_has_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    fields = {*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__}
    assert not (fields | NO_EFFECT) - named
    assert not fields & set(UNSUPPORTED) - {"add_special_tokens", "chat_template"}  # chat or not
    codes = {code for *_, code in MAPPING if code} - {"model_error", "config_error"}
    assert not codes - named
