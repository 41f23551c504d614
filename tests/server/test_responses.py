"""/v1/responses through OpenAI's official client, on the real model."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from running_server import RunningServer
from test_chat import answer as chat_answer

QUESTION = "What is the capital of France?"
CHAT: Any = [{"role": "user", "content": QUESTION}]
GREEDY: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_output_tokens": 8}


def ask(client: openai.OpenAI, given: Any = QUESTION, **options: Any) -> Any:
    return client.responses.create(input=given, **{**GREEDY, **options})


def chat_says(client: openai.OpenAI, messages: Any, **options: Any) -> str:
    return chat_answer(client, messages, max_tokens=8, **options)


def begun(content: Any, status: str = "in_progress") -> Any:
    answer = {"type": "message", "role": "assistant", "status": status, "content": content}
    return [*CHAT, answer]


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "output_text", "text": text, "annotations": []} for text in texts]


def test_a_response(client: openai.OpenAI) -> None:
    response = ask(client, metadata={"a": "b"})
    assert response.id.startswith("resp_") and response.object == "response"
    assert response.output_text == chat_says(client, CHAT)
    assert response.metadata == {"a": "b"} and response.model == "smollm2"
    usage = ask(client).usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cached_tokens > 0
    told = [{"role": "system", "content": "You are a pirate."}, *CHAT]
    expected = chat_says(client, told)
    assert ask(client, instructions="You are a pirate.").output_text == expected
    items = [{"role": "developer", "content": "You are a pirate."}, *CHAT]
    assert ask(client, items).output_text == expected


def test_an_item_in_progress_is_continued(client: openai.OpenAI) -> None:
    expected = chat_says(client, [*CHAT, {"role": "assistant", "content": "According to "}])
    for content in ("According to ", parts("Accor", "ding to ")):
        assert ask(client, begun(content)).output_text == expected
        echoed = ask(client, begun(content), extra_body={"echo": True})
        assert echoed.output_text == "According to " + expected
    new_turn = chat_says(
        client,
        [*CHAT, {"role": "assistant", "content": "Paris."}],
        extra_body={"add_generation_prompt": True},
    )
    assert ask(client, begun("Paris.", "completed")).output_text == new_turn


@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_is_the_whole(client: openai.OpenAI, echo: bool) -> None:
    options = {**GREEDY, "extra_body": {"echo": echo}}
    whole = client.responses.create(input=begun("It is "), **options)
    events = list(client.responses.create(input=begun("It is "), stream=True, **options))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        whole.status,
    ]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert deltas == whole.output_text == events[-1].response.output_text
    assert whole.output_text.startswith("It is ") == echo
    with client.responses.stream(input=begun("It is "), **options) as stream:
        texts = [e.delta for e in stream if e.type == "response.output_text.delta"]
    assert "".join(texts) == whole.output_text


def test_why_it_ended(client: openai.OpenAI) -> None:
    cut = ask(client, max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    assert cut.output[0].status == "incomplete"
    word = cut.output_text.split()[-1]
    stopped = ask(client, extra_body={"stop": word})
    assert stopped.status == "completed" and stopped.incomplete_details is None


def test_a_response_goes_on_from_another(client: openai.OpenAI) -> None:
    first = ask(client)
    second = ask(client, "And of Italy?", previous_response_id=first.id)
    turns = [
        *CHAT,
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of Italy?"},
    ]
    assert second.output_text == chat_says(client, turns)
    assert second.previous_response_id == first.id


def test_a_response_cut_off_is_continued_when_nothing_is_said(client: openai.OpenAI) -> None:
    cut = ask(client, begun("According to "), max_output_tokens=4)
    rest = client.responses.create(previous_response_id=cut.id, **GREEDY)
    once = ask(client, begun("According to "))
    assert (cut.output_text + rest.output_text).startswith(once.output_text)


def test_stored_responses(client: openai.OpenAI) -> None:
    response = ask(client, begun("According to "))
    assert client.responses.retrieve(response.id).output == response.output
    stream = client.responses.create(input=QUESTION, stream=True, **GREEDY)
    streamed = list(stream)[-1].response
    assert client.responses.retrieve(streamed.id).output_text == streamed.output_text
    items = list(client.responses.input_items.list(response.id, order="asc"))
    assert [item.role for item in items] == ["user", "assistant"]
    assert items[1].content[0].text == "According to " and items[1].status == "in_progress"
    later = ask(client, "Go on.", previous_response_id=response.id)
    listed = list(client.responses.input_items.list(later.id, limit=1))
    assert [item.role for item in listed] == ["user", "assistant", "user"]
    assert listed[1].content[0].text == "According to " + response.output_text
    client.responses.delete(response.id)
    for missing in (response.id, ask(client, store=False).id):
        with pytest.raises(openai.NotFoundError) as caught:
            client.responses.retrieve(missing)
        assert caught.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "And now?", previous_response_id=response.id)
    assert refused.value.code == "previous_response_not_found"
    assert ask(client, "And now?", previous_response_id=later.id).output_text


def test_logprobs(client: openai.OpenAI) -> None:
    options: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = ask(client, **options)
    entries = response.output[0].content[0].logprobs
    assert len(entries) == response.usage.output_tokens and len(entries[0].top_logprobs) == 2
    events = client.responses.create(input=QUESTION, stream=True, **GREEDY, **options)
    flowed = [entry for e in events if e.type.endswith("text.delta") for entry in e.logprobs]
    assert [entry.logprob for entry in flowed] == [entry.logprob for entry in entries]


IMAGE = {"type": "input_image", "image_url": "data:"}
TABLE: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", "input is required"),
    ({"input": []}, "input", "input is required"),
    ({"input": [{"type": "function_call"}]}, "input[0].type", "only messages and reasoning"),
    ({"input": [{"role": "tool", "content": ""}]}, "input[0].role", "must be one of user"),
    ({"input": [{"role": "user", "colour": 1}]}, "input[0].colour", "is unknown"),
    ({"input": [{"role": "user", "status": "x"}]}, "input[0].status", "must be one of in_prog"),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]", "'input_image'"),
    ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens must be at least 1"),
    ({"max_output_tokens": 9999}, "max_output_tokens", "context length is 2048"),
    ({"input": "word " * 3000}, "input", "context length is 2048"),
    ({"top_logprobs": 2}, "top_logprobs", "needs include"),
    ({"include": ["file_search_call.results"]}, "include", "is not supported"),
    ({"tools": [{"type": "web_search"}]}, "tools", "not supported"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "xml"),
    ({"reasoning": {"effort": "low"}}, "reasoning.effort", "does not think"),
    ({"background": True, "store": False}, "background", "needs store"),
    ({"truncation": "auto"}, "truncation", "not supported"),
    ({"max_tokens": 4}, "max_tokens", "unknown field"),
    ({"previous_response_id": "resp_x"}, "previous_response_id", "'resp_x' not found"),
]


@pytest.mark.parametrize(("change", "param", "part"), TABLE)
def test_errors_name_the_field(
    server: RunningServer, change: dict[str, Any], param: str, part: str
) -> None:
    response = server.http.post("/v1/responses", json={"input": QUESTION, **change})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param and part in error["message"]


@pytest.mark.parametrize("query", ["stream=maybe", "starting_after=3"])
def test_what_a_stored_response_cannot_do(server: RunningServer, query: str) -> None:
    assert server.http.get(f"/v1/responses/resp_x?{query}").status_code == 400
    for refused in ("limit=0", "limit=x", "order=up"):
        assert server.http.get(f"/v1/responses/resp_x/input_items?{refused}").status_code in (
            400,
            404,
        )


@pytest.mark.parametrize(
    "metadata",
    [{str(i): "x" for i in range(17)}, {"k" * 65: "x"}, {"k": "v" * 513}],
)
def test_metadata_is_bounded(server: RunningServer, metadata: dict[str, str]) -> None:
    """It is kept with the response, and sent with each of its states."""
    refused = httpx.post(f"{server.url}/v1/responses", json={"input": "hi", "metadata": metadata})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "metadata"
