"""OpenAI's Predicted Outputs, through the official client: the same answer, and what came true."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

CODE = "def double(x):\n    return x + x\n\n\ndef triple(x):\n    return x + x + x\n"
BEGUN = "```python\n"
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": f"Repeat this code:\n```python\n{CODE}```"},
    {"role": "assistant", "content": BEGUN},
]
OPTIONS: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 48}


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{**OPTIONS, "temperature": 0, **options})


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 0.7, "seed": 5, "n": 2}])
def test_a_prediction_changes_nothing_but_the_usage(
    client: openai.OpenAI, how: dict[str, Any]
) -> None:
    plain = ask(client, **how)
    predicted = ask(client, prediction={"type": "content", "content": CODE}, **how)
    assert [c.message.content for c in predicted.choices] == [
        c.message.content for c in plain.choices
    ]
    assert predicted.usage.completion_tokens == plain.usage.completion_tokens
    assert plain.usage.completion_tokens_details.accepted_prediction_tokens is None


def test_what_came_true_is_counted(client: openai.OpenAI) -> None:
    answer = ask(client).choices[0].message.content
    parts = [{"type": "text", "text": answer}, {"type": "text", "text": " never said"}]
    usage = ask(client, prediction={"type": "content", "content": parts}).usage
    details = usage.completion_tokens_details
    assert details.accepted_prediction_tokens > 0.9 * usage.completion_tokens - 2
    assert 0 < details.rejected_prediction_tokens < 8
    wrong = ask(client, prediction={"type": "content", "content": "zebra " * 9})
    assert wrong.usage.completion_tokens_details.accepted_prediction_tokens == 0
    assert wrong.choices[0].message.content == answer


def test_streamed_with_usage(client: openai.OpenAI) -> None:
    prediction = {"type": "content", "content": CODE}
    whole = ask(client, prediction=prediction)
    chunks = list(
        ask(client, prediction=prediction, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens_details == whole.usage.completion_tokens_details


def test_with_stop_strings_and_a_schema(client: openai.OpenAI) -> None:
    prediction = {"type": "content", "content": CODE}
    plain = ask(client, stop=["return x + x +"])
    assert ask(client, prediction=prediction, stop=["return x + x +"]).choices == plain.choices
    known = json.dumps({"name": "Ada", "age": 36})
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    wanted = {
        "messages": [{"role": "user", "content": "Ada is 36. Write that as JSON."}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": schema},
        },
    }
    told = ask(client, prediction={"type": "content", "content": known}, **wanted)
    assert told.choices[0].message.content == ask(client, **wanted).choices[0].message.content


@pytest.mark.parametrize(
    ("prediction", "complaint"),
    [
        ({"type": "content"}, "prediction.content is required"),
        ({"type": "text", "content": ""}, "prediction.type"),
        ({"type": "content", "content": [{"type": "image_url"}]}, "prediction.content"),
        ({"type": "content", "content": "word " * 9000}, "context length"),
    ],
)
def test_a_bad_prediction_is_named(
    client: openai.OpenAI, prediction: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=complaint):
        ask(client, prediction=prediction)
