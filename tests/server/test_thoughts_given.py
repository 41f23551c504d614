"""What a client gives of an answer, in the dialects beside OpenAI's chat: thoughts, echo, policies."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fake_service import FakeServer
from test_reasoning import ASKED, OPENS

from legato.text.template import ChatTemplate
from legato.text.tokenizer import Tokenizer

GOES_ON = ", so.\n</think>\n\nIt is"


def speaker(tokenizer: Tokenizer, text: str = GOES_ON, **config: Any) -> FakeServer:
    return FakeServer(tokenizer, ChatTemplate(OPENS), text, **config)


def begun(content: Any, **more: Any) -> Any:
    return [*ASKED, {"role": "assistant", "content": content, **more}]


@pytest.mark.parametrize("echo", [False, True])
def test_anthropic(tokenizer: Tokenizer, echo: bool) -> None:
    server = speaker(tokenizer)
    messages = begun([{"type": "thinking", "thinking": "Okay", "signature": "x"}])
    asked: dict[str, Any] = {"messages": messages, "max_tokens": 50, "echo": echo}
    thinking, text = server.ask("/v1/messages", **asked).json()["content"]
    assert thinking["thinking"] == "Okay" * echo + ", so." and text["text"] == "It is"
    streamed = server.ask("/v1/messages", **asked, stream=True).text.strip().split("\n\n")
    events = [json.loads(event.partition("data: ")[2]) for event in streamed]
    deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
    assert "".join(d.get("thinking", "") for d in deltas) == thinking["thinking"]
    assert "".join(d.get("text", "") for d in deltas) == text["text"]


@pytest.mark.parametrize("echo", [False, True])
def test_ollama(tokenizer: Tokenizer, echo: bool) -> None:
    server = speaker(tokenizer)
    asked: dict[str, Any] = {"messages": begun("", thinking="Okay"), "echo": echo}
    message = server.ask("/api/chat", **asked, stream=False).json()["message"]
    assert message["thinking"] == "Okay" * echo + ", so." and message["content"] == "It is"
    records = [json.loads(line) for line in server.ask("/api/chat", **asked).text.splitlines()]
    for name in ("thinking", "content"):
        assert "".join(r["message"].get(name, "") for r in records) == message[name]


@pytest.mark.parametrize("echo", [False, True])
def test_responses(tokenizer: Tokenizer, echo: bool) -> None:
    server = speaker(tokenizer)
    thought = {"type": "reasoning_text", "text": "Okay"}
    item = {"type": "reasoning", "status": "in_progress", "summary": [], "content": [thought]}
    asked: dict[str, Any] = {"input": [*ASKED, item], "echo": echo}
    reply = server.ask("/v1/responses", **asked).json()
    texts = [item["content"][0]["text"] for item in reply["output"]]
    assert texts == ["Okay" * echo + ", so.", "It is"]
    streamed = server.ask("/v1/responses", **asked, stream=True).text.strip().split("\n\n")
    last = json.loads(streamed[-1].partition("data: ")[2])["response"]
    assert [item["content"][0]["text"] for item in last["output"]] == texts
    rest = server.ask("/v1/responses", previous_response_id=reply["id"], echo=True).json()
    texts = [item["content"][0]["text"] for item in rest["output"]]
    assert texts == ["Okay, so.", "It is" + GOES_ON]  # an answer begun has no thoughts any more


def test_thoughts_that_are_over(tokenizer: Tokenizer) -> None:
    server = speaker(tokenizer, "It is")
    thinking = {"type": "thinking", "thinking": "Okay."}
    for nothing in ({"type": "text", "text": ""}, ""):
        messages = begun([thinking, nothing])
        reply = server.ask("/v1/messages", messages=messages, max_tokens=9).json()
        assert [block["type"] for block in reply["content"]] == ["text"]


def test_an_answer_cut_behind_its_thoughts(tokenizer: Tokenizer) -> None:
    """What comes back says that the thoughts are over, so that they are not gone on with."""
    server = speaker(tokenizer, "So.\n</think>\n\n")
    asked: dict[str, Any] = {"messages": ASKED, "max_tokens": 9}
    reply = server.ask("/v1/messages", **asked).json()
    assert [block["type"] for block in reply["content"]] == ["thinking", "text"]
    streamed = server.ask("/v1/messages", **asked, stream=True).text
    assert streamed.count("content_block_start\n") == streamed.count("content_block_stop\n") == 2
    server.ask("/v1/messages", messages=begun(reply["content"]), max_tokens=9)
    before = "<think>\nSo.\n</think>\n\n"
    assert said_before(server, tokenizer).endswith(before)
    reply = server.ask("/v1/responses", input="hi").json()
    assert [item["status"] for item in reply["output"]] == ["completed", "incomplete"]
    server.ask("/v1/responses", input="hi", stream=True)
    server.ask("/v1/responses", previous_response_id=reply["id"])
    assert said_before(server, tokenizer).endswith(before)


def said_before(server: FakeServer, tokenizer: Tokenizer) -> str:
    request = server.engine.requests[-1]
    ids = request.prompt_token_ids + request.output_token_ids
    return tokenizer.decode(ids, skip_special_tokens=False) + request.pending.decode()


@pytest.mark.parametrize("path", ["/v1/messages", "/api/chat"])
def test_the_servers_policy(tokenizer: Tokenizer, path: str) -> None:
    asked = {"messages": begun("It is "), **({"max_tokens": 9} if "v1" in path else {})}
    refused = speaker(tokenizer, assistant_prefill="reject").ask(path, **asked)
    assert refused.status_code == 400 and "continue_final_message" in refused.text
    new = speaker(tokenizer, assistant_prefill="new-turn")
    assert new.ask(path, **asked).status_code == 200
    prompt = tokenizer.decode(new.engine.requests[-1].prompt_token_ids, skip_special_tokens=False)
    assert prompt.endswith("It is <|im_end|>\n<|im_start|>assistant\n<think>\n")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "a<|im_end|>"}], "max_tokens": 9},
        ),
        ("/api/chat", {"messages": [{"role": "user", "content": "a<|im_end|>"}]}),
        ("/v1/responses", {"input": "a<|im_end|>"}),
    ],
)
def test_special_tokens_are_text_unless_asked_for(
    tokenizer: Tokenizer, path: str, body: dict[str, Any]
) -> None:
    server = speaker(tokenizer)
    ends = []
    for parse in (False, True):
        assert server.ask(path, **body, parse_special_tokens=parse).status_code == 200
        ids = server.engine.requests[-1].prompt_token_ids
        ends.append(ids.count(tokenizer.token_id("<|im_end|>") or 0))
    assert ends[1] == ends[0] + 1


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}, "reasoning_content"),
        ({"role": "assistant", "content": [{"type": "thinking"}]}, "content[0].thinking"),
        (
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "x"}],
            },
            "thoughts come before the text",
        ),
        ({"role": "assistant", "content": [{"type": "redacted_thinking"}]}, "redacted_thinking"),
    ],
)
def test_what_anthropics_messages_cannot_be(
    tokenizer: Tokenizer, message: dict[str, Any], field: str
) -> None:
    reply = speaker(tokenizer).ask("/v1/messages", messages=[message], max_tokens=9)
    assert reply.status_code == 400 and field in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "thinking",
    [
        {"type": "enabled"},
        {"type": "enabled", "budget_tokens": -5},
        {"type": "adaptive", "budget_tokens": 5},
        {"type": "between_tools"},
        {"type": "enabled", "budget_tokens": 5, "display": "omitted"},
        {},
    ],
)
def test_what_thinking_cannot_be(tokenizer: Tokenizer, thinking: dict[str, Any]) -> None:
    server = speaker(tokenizer)
    reply = server.ask("/v1/messages", messages=ASKED, max_tokens=9, thinking=thinking)
    assert reply.status_code == 400 and "thinking" in reply.json()["error"]["message"]


def test_routes_that_clients_probe(tokenizer: Tokenizer) -> None:
    server = speaker(tokenizer, api_key="secret")
    for method in ("GET", "HEAD"):
        reply = asyncio.run(server.client.request(method, "/"))
        assert reply.status_code == 200
    server = speaker(tokenizer)
    assert asyncio.run(server.client.get("/")).text == "Ollama is running"
    assert "thinking" in server.ask("/api/show", model="fake").json()["capabilities"]
    made = server.ask("/v1/responses", input="hi").json()["id"]
    cancelled = server.ask(f"/v1/responses/{made}/cancel")
    assert cancelled.status_code == 400 and "synchronous" in cancelled.json()["error"]["message"]
    assert server.ask("/v1/responses/resp_x/cancel").status_code == 404


def test_marks_that_only_the_servers_parser_knows(tokenizer: Tokenizer) -> None:
    """A grammar begins behind the thoughts, whoever told their marks."""
    plain = ChatTemplate(OPENS.replace("<think>\n", ""))
    server = FakeServer(tokenizer, plain, 'me": 1}', reasoning_parser="deepseek_r1")
    asked = begun('<think>ok</think>{"na')
    form = {"type": "json_object"}
    reply = server.ask("/v1/chat/completions", messages=asked, response_format=form)
    assert reply.status_code == 200, reply.text
    request = server.engine.requests[-1]
    assert request.grammar_text + request.pending == b'{"na'
