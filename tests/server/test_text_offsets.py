"""OpenAI's text_offset: where a token begins in the choice's text, also behind characters of several tokens."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fake_service import Build, post

from legato.server.logprobs import TextOffsets
from legato.text.tokenizer import Tokenizer, load_tokenizer
from legato.weights import hub

ANSWER = " 🙂 ok 日本 fine"


def logprobs(response: httpx.Response, *, streamed: bool) -> tuple[str, list[str], list[int]]:
    """Text, tokens and offsets."""
    replies: list[dict[str, Any]] = [] if streamed else [response.json()]
    if streamed:
        lines = [line for line in response.text.split("\n") if line.startswith("data: {")]
        replies = [json.loads(line.removeprefix("data: ")) for line in lines]
    choices = [reply["choices"][0] for reply in replies]
    shown = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    return (
        "".join(choice["text"] for choice in choices),
        [token for one in shown for token in one["tokens"]],
        [offset for one in shown for offset in one["text_offset"]],
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_tokens_begin_where_their_text_does(build: Build, streamed: bool) -> None:
    client, _ = build(ANSWER)
    body = {"prompt": "say:", "logprobs": 1, "max_tokens": 50, "stream": streamed}
    text, tokens, offsets = logprobs(post(client, "/v1/completions", body), streamed=streamed)
    assert text == ANSWER and len(tokens) > len(text.split())
    for token, offset in zip(tokens, offsets, strict=True):
        whole = token.strip("\ufffd")
        assert text[offset:].startswith(whole), (token, offset)
    assert offsets == sorted(offsets)


def test_a_prompt_begins_with_its_text(tokenizer: Tokenizer) -> None:
    gemma3 = load_tokenizer(hub.resolve("gemma3-270m").path)
    for vocabulary in (tokenizer, gemma3):
        for text in ("Hello there, 日本", " Hello", "<eos>x"):
            ids = vocabulary.encode(text)
            offsets = TextOffsets(vocabulary, vocabulary.special_ids)
            found = offsets.echo(text, ids)
            for id, offset in list(zip(ids, found, strict=True))[-1:]:
                assert text[offset:].startswith(vocabulary.token_text(id).strip("\ufffd"))
            assert found[0] == 0 and offsets.push(ids[-1:]) == [len(text)]
