"""The mission's heart: an answer that the client began is continued, byte for byte."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from running_server import RunningServer
from test_chat import GREEDY, QUESTION, answer, streamed


def begun(text: Any) -> list[dict[str, Any]]:
    return [*QUESTION, {"role": "assistant", "content": text}]


def test_the_last_assistant_message_is_continued(client: openai.OpenAI) -> None:
    """What an uninterrupted answer would have said goes on after its first words."""
    whole = answer(client, QUESTION)
    cut = whole.index(" ", len(whole) // 3)
    rest = answer(client, begun(whole[:cut]))
    assert rest.startswith(whole[cut:])


@pytest.mark.parametrize("prefill", ["According to ", "\n\n", "Par", "  x\t", "«É", "1. "])
def test_the_prefill_is_in_the_prompt_byte_for_byte(server: RunningServer, prefill: str) -> None:
    tokens = server.http.post("/tokenize", json={"messages": begun(prefill)}).json()["tokens"]
    prompt = server.http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert prompt.endswith("assistant\n" + prefill)


def test_the_reply_is_the_continuation_only(client: openai.OpenAI) -> None:
    rest = answer(client, begun("According to "))
    assert rest and not rest.startswith("According")
    assert "Paris" in answer(client, begun("The capital of France is"))
    assert answer(client, begun("According to "), extra_body={"echo": True}) == (
        "According to " + rest
    )
    explicit = {"continue_final_message": True, "add_generation_prompt": False}
    assert answer(client, begun("According to "), extra_body=explicit) == rest


def test_parts_are_joined_without_anything_between(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Accor"}, {"type": "text", "text": "ding to "}]
    rest = answer(client, begun("According to "))
    assert answer(client, begun(parts)) == rest
    assert answer(client, begun(parts), extra_body={"echo": True}) == "According to " + rest


def test_a_new_turn_when_asked_for(client: openai.OpenAI, server: RunningServer) -> None:
    body = {"messages": begun("Paris."), "add_generation_prompt": True}
    tokens = server.http.post("/tokenize", json=body).json()["tokens"]
    prompt = server.http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert prompt.rstrip().endswith("assistant") and "Paris.<|im_end|>" in prompt
    new_turn = answer(client, begun("Paris."), extra_body={"add_generation_prompt": True})
    assert new_turn != answer(client, begun("Paris."))


@pytest.mark.parametrize(
    ("messages", "options", "field"),
    [
        (QUESTION, {"continue_final_message": True}, "continue_final_message"),
        (
            begun("a"),
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ([], {}, "messages"),
    ],
)
def test_contradictions_are_refused(
    client: openai.OpenAI, messages: Any, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        answer(client, messages, extra_body=options)
    assert caught.value.param == field


@pytest.mark.parametrize("n", [1, 3])
def test_echo_is_the_same_streamed(client: openai.OpenAI, n: int) -> None:
    options = {"extra_body": {"echo": True}, "n": n, "temperature": 1.0, "seed": 5}
    reply = client.chat.completions.create(messages=begun("It is "), **{**GREEDY, **options})
    whole = {choice.index: choice.message.content for choice in reply.choices}
    assert all(text.startswith("It is ") for text in whole.values())
    assert streamed(client, begun("It is "), **options) == whole


def test_a_stop_string_may_begin_in_the_prefill(client: openai.OpenAI) -> None:
    whole = answer(client, QUESTION)
    cut = whole.index(" ", 8)
    stop = whole[cut - 2 : cut + 3]
    reply = client.chat.completions.create(messages=begun(whole[:cut]), stop=stop, **GREEDY)
    assert reply.choices[0].finish_reason == "stop"
    assert len(reply.choices[0].message.content or "") <= 3


def test_continuing_after_length_costs_next_to_nothing(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(
        messages=QUESTION, extra_body={"ignore_eos": True}, **GREEDY
    )
    text = first.choices[0].message.content
    rest = client.chat.completions.create(messages=begun(text), **GREEDY)
    usage = rest.usage
    assert usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens <= 17
