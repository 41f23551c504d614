"""Structured output through the official clients, on the real model: from the start and from the middle."""

from __future__ import annotations

import json
import re
import time
from typing import Any, Literal

import anthropic
import jsonschema
import ollama
import openai
import pydantic
import pytest
from running_server import RunningServer

QUESTION: Any = [{"role": "user", "content": "Invent a person. Answer as JSON."}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["tall", "kind", "loud"]}, "maxItems": 1},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
STRICT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": SCHEMA, "strict": True, "description": "one"},
}


def begun(content: str) -> Any:
    return [*QUESTION, {"role": "assistant", "content": content}]


def ask(client: openai.OpenAI, messages: Any = QUESTION, **fields: Any) -> Any:
    given = {"model": "smollm2", "temperature": 0, "max_tokens": 80, **fields}
    return client.chat.completions.create(messages=messages, **given)


def say(client: openai.OpenAI, messages: Any = QUESTION, **fields: Any) -> str:
    (choice,) = ask(client, messages, **fields).choices
    assert choice.finish_reason == "stop", choice
    return str(choice.message.content)


def check(text: str) -> dict[str, Any]:
    person: dict[str, Any] = json.loads(text)
    jsonschema.validate(person, SCHEMA)
    return person


@pytest.mark.parametrize("response_format", [FORMAT, STRICT])
def test_a_schema_is_followed(client: openai.OpenAI, response_format: Any) -> None:
    check(say(client, response_format=response_format))


def test_every_name_of_a_schema_gives_the_same_answer(client: openai.OpenAI) -> None:
    answer = say(client, response_format=FORMAT)
    for body in (
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"guided_json": SCHEMA},
        {"json_schema": SCHEMA},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
    ):
        assert say(client, extra_body=body) == answer, body


@pytest.mark.parametrize("body", [{"response_format": {"type": "text"}}, {"grammar": ""}])
def test_what_asks_for_nothing(client: openai.OpenAI, body: dict[str, Any]) -> None:
    with_it, without = (ask(client, max_tokens=8, extra_body=extra) for extra in (body, {}))
    assert with_it.choices[0].message == without.choices[0].message


def test_a_model_class_of_the_client(client: openai.OpenAI) -> None:
    class Pet(pydantic.BaseModel):
        kind: Literal["cat", "dog"]
        legs: int = pydantic.Field(ge=1, le=8)

    reply = client.chat.completions.parse(
        model="smollm2", messages=QUESTION, response_format=Pet, temperature=0, max_tokens=60
    )
    assert isinstance(reply.choices[0].message.parsed, Pet)


def test_any_json_object(client: openai.OpenAI) -> None:
    given = '{"name": "Ann", "age": 3'
    fields: dict[str, Any] = {"response_format": {"type": "json_object"}, "max_tokens": 24}
    (choice,) = ask(client, begun(given), **fields).choices
    if choice.finish_reason == "stop":
        json.loads(given + choice.message.content)
    else:
        assert given.startswith("{") and re.match(r"[0-9.eE+-]*\s*[,}]", choice.message.content)


def test_the_continuation_is_what_the_whole_answer_has_from_there(client: openai.OpenAI) -> None:
    """Cut anywhere: within a word or token, and within a key that the model would not have written."""
    whole = say(client, response_format=FORMAT)
    for cut in range(0, len(whole) + 1, 2):
        assert say(client, begun(whole[:cut]), response_format=FORMAT) == whole[cut:], whole[:cut]


@pytest.mark.parametrize("token_healing", [True, False])
@pytest.mark.parametrize(
    "given", ['{"name": "', '{"name": "Jo', '{"name":"Jo","age":', ' {"name": "A", "age": 4', "{"]
)
def test_what_was_begun_goes_on(client: openai.OpenAI, given: str, token_healing: bool) -> None:
    body = {"token_healing": token_healing}
    rest = say(client, begun(given), response_format=FORMAT, extra_body=body)
    check(given + rest)


def test_what_is_finished_ends_at_once(client: openai.OpenAI) -> None:
    finished = '{"name": "Jo", "age": 40, "tags": []}'
    for body in ({"response_format": FORMAT}, {"guided_choice": ["x", finished]}):
        start = time.monotonic()
        (choice,) = ask(client, begun(finished), extra_body=body).choices
        assert (choice.message.content, choice.finish_reason) == ("", "stop")
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("body", "given", "shown"),
    [
        ({"response_format": FORMAT}, '{"name": 3', 'at character 9, .*{"name": ⟦here⟧3'),
        ({"response_format": FORMAT}, '{"näme', 'at character 3, .*{"n⟦here⟧äme'),
        ({"guided_regex": "[a-z]+"}, "Abc", "at character 0, .*⟦here⟧Abc"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yess", "at character 3, .*must end"),
        ({"grammar": 'root ::= "a"'}, "b", "possible: 'a'"),
    ],
)
def test_what_breaks_the_grammar_is_shown_where(
    client: openai.OpenAI, body: dict[str, Any], given: str, shown: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=shown) as caught:
        ask(client, begun(given), extra_body=body)
    field = next(iter(body))
    assert (caught.value.param or "").startswith(field)


def test_choices_at_once_and_with_temperature(client: openai.OpenAI) -> None:
    reply = ask(client, response_format=FORMAT, n=3, temperature=1.5, seed=3)
    people = [check(choice.message.content) for choice in reply.choices]
    assert len({json.dumps(person) for person in people}) > 1
    rests = ask(client, begun('{"name": "J'), response_format=FORMAT, n=3, temperature=1, seed=1)
    for choice in rests.choices:
        check('{"name": "J' + choice.message.content)


def test_a_stream_is_the_same_answer(client: openai.OpenAI) -> None:
    given = begun('{"name": "Jo')
    stream = ask(client, given, response_format=FORMAT, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == say(client, given, response_format=FORMAT)


def test_log_probabilities_tell_the_tokens_of_the_answer(client: openai.OpenAI) -> None:
    (choice,) = ask(client, response_format=FORMAT, logprobs=True, top_logprobs=2).choices
    spoken = "".join(entry.token for entry in choice.logprobs.content)
    assert choice.message.content in spoken


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        ({"structured_outputs": {"regex": r"[0-9]{3}-[a-z]{2}"}}, r"[0-9]{3}-[a-z]{2}"),
        ({"guided_regex": r"^(19|20)\d\d$"}, r"(19|20)\d\d"),
        ({"structured_outputs": {"choice": ["negative", "neutral", "positive"]}}, "(nega|posi)tive|neutral"),
        ({"guided_choice": ["A", "B"]}, "A|B"),
        ({"structured_outputs": {"grammar": 'start: "x" NUMBER\nNUMBER: /[0-9]{2}/'}}, "x[0-9]{2}"),
        ({"guided_grammar": 'root ::= ("- " [a-z]{3} "\\n"){2}'}, "(- [a-z]{3}\n){2}"),
        ({"grammar": 'root ::= ("- " [a-z]{3} "\\n"){2}'}, "(- [a-z]{3}\n){2}"),
    ],
)  # fmt: skip
def test_expressions_choices_and_grammars(
    client: openai.OpenAI, body: dict[str, Any], pattern: str
) -> None:
    assert re.fullmatch(pattern, say(client, extra_body=body))


def test_layouts(client: openai.OpenAI) -> None:
    asked = {"json": SCHEMA, "disable_any_whitespace": True}
    assert not re.search(
        r"\s", say(client, extra_body={"structured_outputs": asked}).replace("J ", "")
    )
    body = {"guided_whitespace_pattern": " ?", "guided_decoding_backend": "x"}
    for wanted in ({"guided_json": SCHEMA}, {"json_schema": SCHEMA}, {"response_format": FORMAT}):
        assert "\n" not in say(client, extra_body={**body, **wanted})


def test_a_completion(client: openai.OpenAI) -> None:
    body = {"guided_choice": [" Paris", " London"]}
    reply = client.completions.create(
        model="smollm2",
        prompt=["The capital of France is", "The capital of England is"],
        temperature=0,
        extra_body=body,
    )
    assert [choice.text for choice in reply.choices] == [" Paris", " London"]


CONFLICT = "You can only use one kind of constraints for structured outputs"


@pytest.mark.parametrize(
    ("body", "field", "complaint"),
    [
        ({"response_format": FORMAT, "guided_choice": ["a"]}, "guided_choice", CONFLICT),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs.regex", CONFLICT),
        ({"grammar": 'root ::= "a"', "json_schema": SCHEMA}, "json_schema", CONFLICT),
        ({"structured_outputs": {}}, "structured_outputs", "You must use one kind"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "is not supported"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "'structural_tag' is not supported"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is required"),
        ({"response_format": {"type": "json_object", "x": 1}}, "response_format.x", "unknown field"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format.json_schema.name", "is required"),
        ({"guided_json": {"not": {}}}, "guided_json", "not"),
        ({"guided_json": "{"}, "guided_json", "is not JSON"),
        ({"guided_regex": "(?=a)b"}, "guided_regex", "look-around"),
        ({"guided_regex": "a?" * 2000 + "a" * 2000}, "guided_regex", "too many expressions"),
        ({"guided_choice": []}, "guided_choice", "at least one"),
        ({"guided_choice": "yes"}, "guided_choice", "expected array"),
        ({"guided_grammar": "start: foo"}, "guided_grammar", "unknown name"),
        ({"grammar": 'foo ::= "a"'}, "grammar", "no rule called root"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "is for JSON"),
        ({"guided_choice": ["a"], "guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "is for JSON"),
        ({"structured_outputs": {"regex": "a", "disable_any_whitespace": True}}, "structured_outputs.disable_any_whitespace", "is for JSON"),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ", "disable_any_whitespace": True}}, "structured_outputs.disable_any_whitespace", "exclude each other"),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " "}, "guided_whitespace_pattern": " "}, "structured_outputs.whitespace_pattern", "exclude each other"),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": "["}}, "structured_outputs.whitespace_pattern", "unclosed"),
        ({"json_schema": {"$ref": "http://127.0.0.1:1/"}}, "json_schema", "127.0.0.1:1"),
        ({"guided_json": {"patternProperties": {f"^{i:05}": {} for i in range(800)}}}, "guided_json", "too complex"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for(
    client: openai.OpenAI, body: dict[str, Any], field: str, complaint: str
) -> None:
    start = time.monotonic()
    with pytest.raises(openai.BadRequestError, match=complaint) as caught:
        ask(client, extra_body=body)
    assert caught.value.param == field
    assert time.monotonic() - start < 8


def test_responses(client: openai.OpenAI) -> None:
    given: Any = {"format": {"type": "json_schema", "name": "p", "schema": SCHEMA, "strict": True}}
    asked: dict[str, Any] = {"model": "smollm2", "temperature": 0, "text": given}
    whole = client.responses.create(input=QUESTION[0]["content"], **asked)
    check(whole.output_text)
    assert whole.text and whole.text.format
    assert whole.text.format.to_dict()["schema"] == SCHEMA
    answer = {"type": "message", "role": "assistant", "status": "in_progress"}
    items: Any = [*QUESTION, {**answer, "content": '{"name": "'}]
    check('{"name": "' + client.responses.create(input=items, **asked).output_text)
    for wrong, field in (
        ({"type": "json_schema", "name": "p"}, "text.format.schema"),
        ({"type": "grammar"}, "text.format.type"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(input="x", model="smollm2", text={"format": wrong})  # type: ignore[arg-type]
        assert caught.value.param == field
    items[-1]["content"] = "[1"
    with pytest.raises(openai.BadRequestError, match="⟦here⟧") as caught:
        client.responses.create(input=items, **asked)
    assert caught.value.param == "text.format"


def test_allowed_tokens_that_the_grammar_forbids(server: RunningServer) -> None:
    """At once, and in the middle of an answer that has begun well; also where it must not end yet."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)
    ids = {
        text: server.http.post("/tokenize", json={"prompt": text}).json()["tokens"][0]
        for text in ("a", "b", "c")
    }
    for pattern, allowed in (("[ab]+", "c"), ("aac", "a")):
        with pytest.raises(openai.BadRequestError, match="grammar allows here") as caught:
            client.completions.create(
                model="smollm2",
                prompt="Letters: ",
                max_tokens=6,
                extra_body={"guided_regex": pattern, "allowed_token_ids": [ids[allowed]]},
            )
        assert caught.value.param == "allowed_token_ids"
    end = {"allowed_token_ids": [2], "min_tokens": 3}
    with pytest.raises(openai.BadRequestError, match="forbids to end here") as caught:
        client.completions.create(model="smollm2", prompt="Letters: ", max_tokens=6, extra_body=end)
    assert caught.value.param == "min_tokens"
    kept = client.completions.create(
        model="smollm2",
        prompt="Letters: ",
        max_tokens=6,
        extra_body={"guided_regex": "[ab]{3}", "allowed_token_ids": [ids["a"], ids["c"]]},
    )
    assert kept.choices[0].text == "aaa"


def test_anthropic(server: RunningServer) -> None:
    claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60)
    given = {"type": "json_schema", "schema": SCHEMA}
    for name, value in (("output_config", {"format": given}), ("output_format", given)):
        for start in ("", '{"name": "'):
            message = claude.messages.create(
                model="smollm2",
                max_tokens=80,
                messages=begun(start) if start else QUESTION,
                extra_body={name: value, "temperature": 0},
            )
            (block,) = message.content
            assert block.type == "text" and message.stop_reason == "end_turn"
            check(start + block.text)
    claude.messages.count_tokens(
        model="smollm2", messages=QUESTION, extra_body={"output_config": {"format": given}}
    )
    with pytest.raises(anthropic.BadRequestError, match="⟦here⟧x"):
        claude.messages.create(
            model="smollm2", max_tokens=8, messages=begun("x"), extra_body={"output_format": given}
        )
    with pytest.raises(anthropic.BadRequestError, match="effort"):
        extra = {"output_config": {"effort": "low"}}
        claude.messages.create(model="smollm2", max_tokens=8, messages=QUESTION, extra_body=extra)


def test_ollama(server: RunningServer) -> None:
    llama = ollama.Client(host=server.url, timeout=60)
    options = {"temperature": 0, "num_predict": 80}
    for start in ("", '{"name": "'):
        messages = begun(start) if start else QUESTION
        reply = llama.chat("smollm2", messages, format=SCHEMA, options=options)
        check(start + (reply.message.content or ""))
    told = llama.generate("smollm2", QUESTION[0]["content"], format=SCHEMA, options=options)
    check(told.response)
    reply = llama.chat("smollm2", begun("{"), format="json", options={**options, "num_predict": 4})
    assert reply.done_reason == "length"
    with pytest.raises(ollama.ResponseError, match="format") as caught:
        llama.chat("smollm2", QUESTION, format={"not": {}})
    assert caught.value.status_code == 400
    body = {"model": "smollm2", "messages": QUESTION, "format": "xml"}
    assert "format must be" in server.http.post("/api/chat", json=body).json()["error"]
