"""Thoughts in every dialect through the official clients, on the real model.

SmolLM2 was not taught to think; a template that opens a block makes it try, and a budget ends it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from running_server import MODEL, SETTINGS, RunningServer, start_server
from test_reasoning import OPENS

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
BUDGET = 4
GREEDY: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0}


@pytest.fixture(scope="module")
def thinker(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    template = tmp_path_factory.mktemp("thinker") / "template.jinja"
    template.write_text(OPENS, encoding="utf-8")
    running = start_server(MODEL, *SETTINGS, "--chat-template", str(template))
    yield running
    running.process.terminate()
    running.process.wait(20)


@pytest.fixture(scope="module")
def gpt(thinker: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{thinker.url}/v1", api_key="none", max_retries=0, timeout=60)


def thought(gpt: openai.OpenAI, **fields: Any) -> tuple[str, str, Any]:
    """(reasoning, content, usage) of a chat."""
    budget = {"max_thinking_tokens": BUDGET}
    reply = gpt.chat.completions.create(
        **{**GREEDY, "max_tokens": 24, "extra_body": budget, **fields}
    )
    message: Any = reply.choices[0].message
    return getattr(message, "reasoning_content", ""), message.content, reply.usage


def test_a_budget_ends_the_thoughts(gpt: openai.OpenAI) -> None:
    reasoning, content, usage = thought(gpt)
    assert reasoning and content
    assert usage.completion_tokens_details.reasoning_tokens == BUDGET
    whole = thought(gpt, extra_body={})
    assert whole[0].startswith(reasoning) and len(whole[0]) > len(reasoning)
    none = thought(gpt, extra_body={"max_thinking_tokens": 0})
    assert none[0] == "" and none[1] and none[2].completion_tokens_details.reasoning_tokens == 0
    assert thought(gpt, reasoning_effort="none", extra_body={})[:2] == none[:2]
    assert thought(gpt, extra_body={"thinking": {"type": "disabled"}})[:2] == none[:2]
    limited = {"thinking": {"type": "enabled", "budget_tokens": BUDGET}}
    assert thought(gpt, extra_body=limited)[:2] == (reasoning, content)


def test_given_thoughts_count_wherever_they_were_cut(gpt: openai.OpenAI) -> None:
    reasoning, content, _ = thought(gpt)
    for cut in range(1, len(reasoning) + 1, 2):
        begun = {"role": "assistant", "content": None, "reasoning_content": reasoning[:cut]}
        rest = thought(gpt, messages=[*QUESTION, begun])
        assert (rest[0] or "") == reasoning[cut:]
        shared = min(len(rest[1]), len(content))
        assert rest[1][:shared] == content[:shared]


def test_a_chat_stream_is_the_whole(gpt: openai.OpenAI) -> None:
    reasoning, content, _ = thought(gpt)
    said = {"reasoning_content": "", "content": ""}
    budget = {"thinking_token_budget": BUDGET}
    for chunk in gpt.chat.completions.create(
        **GREEDY, max_tokens=24, extra_body=budget, stream=True
    ):
        for name in said:
            said[name] += getattr(chunk.choices[0].delta, name, None) or ""
    assert said == {"reasoning_content": reasoning, "content": content}


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropic(thinker: RunningServer, gpt: openai.OpenAI, streamed: bool) -> None:
    claude = anthropic.Anthropic(base_url=thinker.url, api_key="none", max_retries=0, timeout=60)
    reasoning, content, _ = thought(gpt)
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": QUESTION,
        "max_tokens": 24,
        "thinking": {"type": "enabled", "budget_tokens": BUDGET},
        "extra_body": {"temperature": 0},
    }
    if streamed:
        with claude.messages.stream(**asked) as stream:
            message = stream.get_final_message()
        kinds = [event.type for event in claude.messages.create(**asked, stream=True)]
        one = ["content_block_start", "content_block_delta", "content_block_stop"]
        order = [kind for at, kind in enumerate(kinds) if not at or kinds[at - 1] != kind]
        assert order == ["message_start", *one, *one, "message_delta", "message_stop"]
    else:
        message = claude.messages.create(**asked)
    first, second = message.content
    assert first.type == "thinking" and first.thinking == reasoning and first.signature
    assert second.type == "text" and second.text == content
    assert message.usage.output_tokens_details.thinking_tokens == BUDGET
    begun = [first.model_copy(update={"thinking": reasoning[:9]})]
    rest = claude.messages.create(
        **{**asked, "messages": [*QUESTION, {"role": "assistant", "content": begun}]}
    )
    assert rest.content[0].thinking == reasoning[9:]
    over: Any = [*message.content[:1], {"type": "text", "text": content[:5]}]
    rest = claude.messages.create(
        **{**asked, "messages": [*QUESTION, {"role": "assistant", "content": over}]}
    )
    assert [block.type for block in rest.content] == ["text"]


def test_ollama(thinker: RunningServer, gpt: openai.OpenAI) -> None:
    client = ollama.Client(host=thinker.url)
    options = {"temperature": 0, "num_predict": 24}
    quiet = client.chat(MODEL, QUESTION, think=False, options=options).message
    assert not quiet.thinking and quiet.content == thought(gpt, reasoning_effort="none")[1]
    loud = client.chat(MODEL, QUESTION, think=True, options=options).message
    streamed = list(client.chat(MODEL, QUESTION, think=True, options=options, stream=True))
    assert "".join(part.message.thinking or "" for part in streamed) == loud.thinking
    assert not loud.content
    begun = {"role": "assistant", "content": "", "thinking": str(loud.thinking)[:9]}
    rest = client.chat(MODEL, [*QUESTION, begun], options=options).message
    given = str(loud.thinking)
    assert str(rest.thinking)[: len(given) - 9] == given[9:]
    prompt = "What is the capital of France?"
    generated = client.generate(MODEL, prompt, think=True, options=options)
    assert (generated.thinking, generated.response) == (loud.thinking, "")
    with pytest.raises(ollama.ResponseError, match="no degrees"):
        client.chat(MODEL, QUESTION, think="low")


def test_responses(gpt: openai.OpenAI) -> None:
    reasoning, content, _ = thought(gpt)
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": QUESTION,
        "temperature": 0,
        "max_output_tokens": 24,
        "extra_body": {"max_thinking_tokens": BUDGET},
    }
    whole: Any = gpt.responses.create(**asked)
    thoughts, message = whole.output
    assert thoughts.type == "reasoning" and thoughts.status == "completed"
    assert thoughts.content[0].text == reasoning and whole.output_text == content
    assert whole.usage.output_tokens_details.reasoning_tokens == BUDGET
    events: list[Any] = list(gpt.responses.create(**asked, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    order = [kind for at, kind in enumerate(kinds) if not at or kinds[at - 1] != kind]
    opens, closes = ["output_item.added", "content_part.added"], ["content_part.done"]
    assert order == [
        *("created", "in_progress", *opens, "reasoning_text.delta", "reasoning_text.done"),
        *(*closes, "output_item.done", *opens, "output_text.delta", "output_text.done"),
        *(*closes, "output_item.done", whole.status),
    ]
    deltas = "".join(e.delta for e in events if e.type == "response.reasoning_text.delta")
    assert deltas == reasoning
    assert [event.sequence_number for event in events] == list(range(len(events)))
    cut: Any = gpt.responses.create(**{**asked, "max_output_tokens": 2})
    assert [item.type for item in cut.output] == ["reasoning"] and cut.status == "incomplete"
    rest: Any = gpt.responses.create(**{**asked, "input": None, "previous_response_id": cut.id})
    assert cut.output[0].content[0].text + rest.output[0].content[0].text == reasoning
    more: Any = gpt.responses.create(
        **{
            **asked,
            "input": [*QUESTION, *whole.output, {"role": "user", "content": "And of Italy?"}],
        }
    )
    assert more.output


def test_what_is_refused(thinker: RunningServer, server: RunningServer) -> None:
    chat = {"messages": QUESTION, "max_tokens": 1}
    table = [
        (server, chat, {"max_thinking_tokens": 4}, "max_thinking_tokens"),
        (thinker, chat, {"max_thinking_tokens": -2}, "max_thinking_tokens"),
        (
            thinker,
            chat,
            {"max_thinking_tokens": 1, "thinking_token_budget": 2},
            "max_thinking_tokens",
        ),
        (thinker, chat, {"reasoning_effort": "high"}, "reasoning_effort"),
        (thinker, chat, {"thinking": {"type": "on"}}, "thinking.type"),
        (server, chat, {"thinking": {"type": "enabled"}}, "thinking"),
        (server, chat, {"reasoning_effort": "high"}, "reasoning_effort"),
    ]
    for running, body, change, field in table:
        response = running.http.post("/v1/chat/completions", json={**body, **change})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == field
    response = server.http.post("/v1/completions", json={"prompt": "a", "max_thinking_tokens": 1})
    assert response.status_code == 400
    assert server.http.post("/v1/chat/completions", json={**chat, "reasoning_effort": "none"})


def test_a_grammar_begins_behind_the_thoughts(gpt: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Paris", "Rome"]}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    budget = {"max_thinking_tokens": BUDGET}
    free, _, _ = thought(gpt)
    reasoning, content, _ = thought(gpt, response_format=form, extra_body=budget)
    assert reasoning == free and json.loads(content)["capital"] in ("Paris", "Rome")
    begun = {"role": "assistant", "content": None, "reasoning_content": reasoning[:9]}
    rest = thought(gpt, messages=[*QUESTION, begun], response_format=form)
    assert rest[:2] == (reasoning[9:], content)
    begun = {"role": "assistant", "reasoning_content": reasoning, "content": content[:8]}
    rest = thought(gpt, messages=[*QUESTION, begun], response_format=form)
    assert rest[:2] == ("", content[8:])
    for raw in (f"<think>\n{reasoning[:9]}", f"<think>\n{reasoning}\n</think>\n\n{content[:8]}"):
        rest = thought(
            gpt, messages=[*QUESTION, {"role": "assistant", "content": raw}], response_format=form
        )
        assert rest[1] in (content, content[8:])


def test_a_response_has_logprobs_of_its_content_only(gpt: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": QUESTION,
        "temperature": 0,
        "max_output_tokens": 24,
        "include": ["message.output_text.logprobs"],
        "extra_body": {"max_thinking_tokens": BUDGET},
    }
    whole: Any = gpt.responses.create(**asked)
    part = whole.output[1].content[0]
    assert "".join(entry.token for entry in part.logprobs).strip("\n") == part.text
    events: list[Any] = list(gpt.responses.create(**asked, stream=True))
    flowed = [
        entry
        for event in events
        if event.type == "response.output_text.delta"
        for entry in event.logprobs
    ]
    assert [entry.token for entry in flowed] == [entry.token for entry in part.logprobs]
