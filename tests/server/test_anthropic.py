"""/v1/messages through Anthropic's official client, on the real model."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest
from running_server import RunningServer
from test_chat import answer as chat_answer

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
LIMITED: dict[str, Any] = {"model": "smollm2", "max_tokens": 24}
BODY: dict[str, Any] = {**LIMITED, "messages": QUESTION, "temperature": 0}


def greedy(messages: Any = QUESTION, **options: Any) -> dict[str, Any]:
    """Arguments of ``create``. Newer clients have no parameter for the temperature."""
    extra = {"temperature": 0, **options.pop("extra_body", {})}
    return {**LIMITED, "messages": messages, **options, "extra_body": extra}


@pytest.fixture(scope="module")
def claude(server: RunningServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60)


def begun(content: Any) -> Any:
    return [*QUESTION, {"role": "assistant", "content": content}]


def say(claude: anthropic.Anthropic, messages: Any, **options: Any) -> str:
    return text(claude.messages.create(**greedy(messages, **options)))


def text(message: Any) -> str:
    (block,) = message.content
    assert block.type == "text"
    return str(block.text)


def test_a_message(claude: anthropic.Anthropic, client: openai.OpenAI) -> None:
    message = claude.messages.create(**greedy())
    assert message.id.startswith("msg_") and message.type == "message"
    assert message.role == "assistant" and message.model == "smollm2"
    assert text(message) == chat_answer(client, QUESTION)
    assert message.usage.output_tokens <= 24
    again = claude.messages.create(**greedy()).usage
    assert again.cache_read_input_tokens and again.input_tokens >= 1
    total = again.cache_read_input_tokens + again.input_tokens
    assert claude.messages.count_tokens(model="smollm2", messages=QUESTION).input_tokens == total


def test_a_message_begun_is_continued(claude: anthropic.Anthropic, client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Accor"}, {"type": "text", "text": "ding to "}]
    rest = say(claude, begun("According to "))
    assert rest == chat_answer(client, begun("According to "))
    assert say(claude, begun(parts)) == rest
    assert say(claude, begun("Accor") + [{"role": "assistant", "content": "ding to "}]) == rest
    assert say(claude, begun(parts), extra_body={"echo": True}) == "According to " + rest
    assert "Paris" in say(claude, begun("The capital of France is"))


@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_is_the_whole(claude: anthropic.Anthropic, echo: bool) -> None:
    options = greedy(begun("It is "), extra_body={"echo": echo})
    whole = claude.messages.create(**options)
    with claude.messages.stream(**options) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert text(final) == text(whole) and text(whole).startswith("It is ") == echo
    assert (final.stop_reason, final.usage.output_tokens) == (
        whole.stop_reason,
        whole.usage.output_tokens,
    )
    raw = claude.messages.create(**options, stream=True)
    kinds = [event.type for event in raw]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_the_events_on_the_wire(server: RunningServer) -> None:
    body = {**BODY, "stream": True, "max_tokens": 2}
    events = server.http.post("/v1/messages", json=body).text.strip().split("\n\n")
    names = [event.split("\n")[0].removeprefix("event: ") for event in events]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert '"stop_reason":"max_tokens"' in events[-2]


def test_system_is_the_first_turn(claude: anthropic.Anthropic, client: openai.OpenAI) -> None:
    system = "You are a pirate. Speak like one."
    told = [{"role": "system", "content": system}, *QUESTION]
    expected = chat_answer(client, told)
    assert say(claude, QUESTION, system=system) == expected
    blocks: Any = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
    assert say(claude, QUESTION, system=blocks) == expected
    split: Any = [{"role": "user", "content": "What is the"}, {"role": "user", "content": "sum?"}]
    assert say(claude, split) == chat_answer(
        client, [{"role": "user", "content": "What is the\n\nsum?"}]
    )


def test_why_it_ended(claude: anthropic.Anthropic) -> None:
    whole = say(claude, QUESTION)
    word = whole.split()[2]
    stopped = claude.messages.create(**greedy(stop_sequences=[word]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    assert text(stopped) == whole[: whole.index(word)]
    short = claude.messages.create(**greedy(max_tokens=2))
    assert (short.stop_reason, short.stop_sequence) == ("max_tokens", None)
    ok: Any = [{"role": "user", "content": "Say only: ok"}]
    ended = claude.messages.create(**greedy(ok, max_tokens=200))
    assert ended.stop_reason == "end_turn"


def test_sampling_fields_mean_what_they_mean_in_a_chat(
    claude: anthropic.Anthropic, client: openai.OpenAI
) -> None:
    extra = {"temperature": 1.0, "top_p": 0.9, "seed": 7, "top_k": 20}
    assert say(claude, QUESTION, extra_body=extra) == chat_answer(
        client, QUESTION, extra_body=extra
    )


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
TABLE: list[tuple[dict[str, Any], int, str, str]] = [
    ({"model": "claude"}, 404, "not_found_error", "`claude` does not exist"),
    ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens is required"),
    ({"max_tokens": 0}, 400, "invalid_request_error", "max_tokens must be at least 1"),
    ({"max_tokens": 5000}, 400, "invalid_request_error", "context length is 2048"),
    ({"messages": []}, 400, "invalid_request_error", "messages: at least one"),
    ({"stop_sequences": [""]}, 400, "invalid_request_error", "stop_sequences must not contain"),
    ({"tools": [{"name": "x"}]}, 400, "invalid_request_error", "tools is not supported"),
    (
        {"thinking": {"type": "enabled"}},
        400,
        "invalid_request_error",
        "thinking: this model does not",
    ),
    ({"temprature": 1}, 400, "invalid_request_error", "did you mean 'temperature'"),
    ({"messages": [{"role": "system", "content": "x"}]}, 400, "invalid_request_error", "[0].role"),
    (
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        400,
        "invalid_request_error",
        "messages[0].content[0]: only text parts are supported, not 'image'",
    ),
]


@pytest.mark.parametrize(("change", "status", "kind", "part"), TABLE)
def test_errors_have_anthropics_shape(
    server: RunningServer, change: dict[str, Any], status: int, kind: str, part: str
) -> None:
    body = {**BODY, **change}
    response = server.http.post("/v1/messages", json=body)
    assert response.status_code == status, response.text
    reply = response.json()
    assert reply["type"] == "error" and set(reply["error"]) == {"type", "message"}
    assert reply["error"]["type"] == kind and part in reply["error"]["message"]


def test_a_body_that_is_not_json_is_the_requests_fault(server: RunningServer) -> None:
    reply = server.http.post("/v1/messages", content=b"a: 1", headers={"content-type": "text/yaml"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (415, "invalid_request_error")


def test_errors_have_the_clients_classes(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        say(claude, QUESTION, model="claude-9")
    with pytest.raises(anthropic.BadRequestError):
        say(claude, QUESTION, tools=[{"name": "x", "input_schema": {"type": "object"}}])


def test_models_are_listed(claude: anthropic.Anthropic, server: RunningServer) -> None:
    [card] = claude.models.list()
    assert (card.id, card.type, card.display_name) == ("smollm2", "model", "smollm2")
    with server.http as http:
        assert card.created_at.timestamp() == http.get("/v1/models").json()["data"][0]["created"]
    assert card.max_input_tokens == 2048 and card.lifecycle == "active"
    assert claude.models.retrieve("smollm2") == card
    with pytest.raises(anthropic.NotFoundError):
        claude.models.retrieve("claude")
