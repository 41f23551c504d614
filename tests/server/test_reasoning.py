"""Thoughts apart from content, streamed and not, filed under the field that is continued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_engine import Script, says
from fake_service import FakeServer, post
from test_edges import events

from legato.request import Output, Request, TokenLogprobs
from legato.server.open_request import join
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


def by(size: int, token_ids: list[int], *, joined: bool) -> Script:
    """The tokens with a log-probability each, ``size`` at a time: the outputs of several steps that are
    read together, or one output with several tokens (``joined``)."""

    def script(request: Request) -> list[list[Output]]:
        outputs = [output for (output,) in says(token_ids)(request)]
        for number, output in enumerate(outputs):
            output.logprobs = [TokenLogprobs(output.token_ids, [-float(number)], 1)]
        lists = [outputs[start : start + size] for start in range(0, len(outputs), size)]
        for together in lists if joined else ():
            while len(together) > 1:
                join(together[0], together.pop(1))
        return lists

    return script


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("thoughts", ["", "Okay.\n</think>\n\n"])
def test_logprobs_of_a_response_however_its_tokens_arrive(
    tokenizer: Tokenizer, thoughts: str, size: int, joined: bool
) -> None:
    """Entry ``-k`` is token k's, so none is left out, doubled or another's."""
    thought = tokenizer.encode(thoughts, add_special_tokens=False)
    token_ids = thought + tokenizer.encode("It is 👍 so.", add_special_tokens=False)
    template = ChatTemplate(OPENS if thoughts else OPENS.replace("<think>\n", ""))
    client = FakeServer(tokenizer, template, by(size, token_ids, joined=joined)).client
    asked = {"input": "hi", "include": ["message.output_text.logprobs"]}
    whole = post(client, "/v1/responses", asked).json()["output"][-1]["content"][0]
    assert whole["text"] == "It is 👍 so."
    expected = [-float(number) for number in range(len(thought), len(token_ids))]
    assert [entry["logprob"] for entry in whole["logprobs"]] == expected
    streamed = post(client, "/v1/responses", {**asked, "stream": True}).text
    told = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    deltas = [event for event in told if event["type"] == "response.output_text.delta"]
    assert [entry for event in deltas for entry in event["logprobs"]] == whole["logprobs"]
