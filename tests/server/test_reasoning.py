"""Thoughts apart from content, streamed and not, filed under the field that is continued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_service import FakeServer, post
from test_edges import events

from legato.text.template import ChatTemplate
from legato.text.tokenizer import Tokenizer

ASKED = [{"role": "user", "content": "hi"}]
OPENS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENS += "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


def ask(tokenizer: Tokenizer, says_this: str, last: dict[str, Any] | None, **fields: Any) -> Any:
    """The message of a whole answer; the same streamed must be equal."""
    parser = fields.pop("parser", "auto")
    client = FakeServer(tokenizer, ChatTemplate(OPENS), says_this, reasoning_parser=parser).client
    messages = [*ASKED, {"role": "assistant", **last}] if last else ASKED
    body = {"messages": messages, "n": 2, **fields}
    reply = post(client, "/v1/chat/completions", body).json()
    message = reply["choices"][1]["message"]
    streamed: dict[str, str] = {}
    for chunk in events(post(client, "/v1/chat/completions", {**body, "stream": True})):
        for choice in chunk["choices"]:
            if choice["index"] == 1:
                for name, text in choice["delta"].items():
                    streamed[name] = streamed.get(name, "") + text
    assert streamed == message, json.dumps(reply)
    return message.get("reasoning_content"), message["content"]


@pytest.mark.parametrize(
    ("last", "says_this", "reasoning", "content"),
    [
        (None, "Okay.\n</think>\n\nIt is", "Okay.", "It is"),
        (None, "Okay", "Okay", ""),
        ({"reasoning_content": "Okay"}, ", so.\n</think>\n\nIt is", ", so.", "It is"),
        ({"reasoning_content": "Okay.", "content": "It"}, " is", None, " is"),
        ({"content": "It"}, " is", None, " is"),
        ({"content": "<think>\nOkay"}, ".\n</think>\n\nIt is", ".", "It is"),
    ],
)
def test_parted(
    tokenizer: Tokenizer,
    last: dict[str, Any] | None,
    says_this: str,
    reasoning: str | None,
    content: str,
) -> None:
    assert ask(tokenizer, says_this, last) == (reasoning, content)


def test_echo_repeats_both_fields(tokenizer: Tokenizer) -> None:
    begun = {"reasoning_content": "Okay"}
    answer = ask(tokenizer, ", so.\n</think>\n\nIt is", begun, echo=True)
    assert answer == ("Okay, so.", "It is")
    begun = {"reasoning_content": "Okay.", "content": "It"}
    assert ask(tokenizer, " is", begun, echo=True) == ("Okay.", "It is")


def test_no_parser(tokenizer: Tokenizer) -> None:
    text = "Okay.\n</think>\n\nIt is"
    assert ask(tokenizer, text, None, parser="none") == (None, text)
