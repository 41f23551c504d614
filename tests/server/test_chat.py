"""Chat through the official client, on the real model."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from running_server import RunningServer

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_tokens": 24}


def answer(client: openai.OpenAI, messages: Any, **options: Any) -> str:
    reply = client.chat.completions.create(messages=messages, **{**GREEDY, **options})
    return reply.choices[0].message.content or ""


def streamed(client: openai.OpenAI, messages: Any, **options: Any) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in client.chat.completions.create(
        messages=messages, stream=True, **{**GREEDY, **options}
    ):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


def test_an_answer_has_openais_shape(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(messages=QUESTION, **GREEDY)
    assert reply.id.startswith("chatcmpl-") and reply.object == "chat.completion"
    assert reply.model == "smollm2"
    choice = reply.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = reply.usage
    assert usage is not None and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is not None


def test_the_second_time_the_prompt_is_cached(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Count from one to twenty, please. " * 4}]
    first = client.chat.completions.create(messages=messages, **GREEDY)
    again = client.chat.completions.create(messages=messages, **GREEDY)
    assert again.choices == first.choices
    assert again.usage.prompt_tokens_details.cached_tokens >= again.usage.prompt_tokens - 16
    salted = client.chat.completions.create(
        messages=messages, extra_body={"cache_salt": "mine"}, **GREEDY
    )
    assert salted.usage.prompt_tokens_details.cached_tokens == 0
    assert salted.choices[0].message.content == first.choices[0].message.content


def test_stream_and_whole_agree(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Write a line with an emoji and 東京."}]
    options = {"temperature": 1.3, "seed": 11, "n": 3, "max_tokens": 40}
    reply = client.chat.completions.create(messages=messages, **{**GREEDY, **options})
    whole = {choice.index: choice.message.content for choice in reply.choices}
    assert streamed(client, messages, **options) == whole
    assert len(set(whole.values())) > 1


def test_seeds_repeat_and_differ(client: openai.OpenAI) -> None:
    options = {"temperature": 1.0, "max_tokens": 16}
    texts = [answer(client, QUESTION, seed=seed, **options) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1
    assert len({answer(client, QUESTION, **options) for _ in range(4)}) > 1


def test_include_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 24
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")


def test_length_and_stop(client: openai.OpenAI) -> None:
    whole = answer(client, QUESTION)
    reply = client.chat.completions.create(messages=QUESTION, **{**GREEDY, "max_tokens": 3})
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 3
    word = whole.split()[2]
    reply = client.chat.completions.create(messages=QUESTION, stop=[word], **GREEDY)
    assert reply.choices[0].message.content == whole[: whole.index(word)]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].stop_reason == word
    assert streamed(client, QUESTION, stop=word)[0] == whole[: whole.index(word)]


def test_logprobs(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        messages=QUESTION, logprobs=True, top_logprobs=3, **{**GREEDY, "max_tokens": 5}
    )
    choice = reply.choices[0]
    entries = choice.logprobs.content
    assert len(entries) == 5
    assert b"".join(bytes(e.bytes) for e in entries).decode() == choice.message.content
    for entry in entries:
        best = [alternative.logprob for alternative in entry.top_logprobs]
        assert len(best) == 3 and best == sorted(best, reverse=True)
        assert entry.logprob == best[0] <= 0 and entry.token == entry.top_logprobs[0].token
    stream = client.chat.completions.create(
        messages=QUESTION, logprobs=True, top_logprobs=3, stream=True,
        **{**GREEDY, "max_tokens": 5},
    )  # fmt: skip
    flowed = [
        entry
        for chunk in stream
        for c in chunk.choices
        if c.logprobs
        for entry in c.logprobs.content
    ]
    assert flowed == entries


def test_logit_bias_and_allowed_tokens(client: openai.OpenAI, server: RunningServer) -> None:
    def ids(text: str) -> list[int]:
        body = {"prompt": text, "add_special_tokens": False}
        tokens: list[int] = server.http.post("/tokenize", json=body).json()["tokens"]
        return tokens

    yes, no = ids("Yes")[0], ids("No")[0]
    options: dict[str, Any] = {"max_tokens": 1}
    assert answer(client, QUESTION, logit_bias={str(no): 100}, **options) == "No"
    allowed = {"extra_body": {"allowed_token_ids": [yes, no]}}
    assert answer(client, QUESTION, **options, **allowed) in ("Yes", "No")


def test_min_tokens_and_ignore_eos(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Say only: ok"}]
    reply = client.chat.completions.create(
        messages=messages, extra_body={"ignore_eos": True}, **{**GREEDY, "max_tokens": 60}
    )
    assert reply.usage.completion_tokens == 60
    reply = client.chat.completions.create(
        messages=messages, extra_body={"min_tokens": 50}, **{**GREEDY, "max_tokens": 60}
    )
    assert reply.usage.completion_tokens >= 50


def test_token_ids_come_back(client: openai.OpenAI, server: RunningServer) -> None:
    reply = client.chat.completions.create(
        messages=QUESTION, extra_body={"return_token_ids": True}, **GREEDY
    )
    assert len(reply.prompt_token_ids) == reply.usage.prompt_tokens
    assert len(reply.choices[0].token_ids) == reply.usage.completion_tokens
    tokens = server.http.post("/tokenize", json={"messages": QUESTION}).json()["tokens"]
    assert tokens == reply.prompt_token_ids
    chunks = list(
        client.chat.completions.create(
            messages=QUESTION, stream=True, extra_body={"return_token_ids": True}, **GREEDY
        )
    )
    assert chunks[0].prompt_token_ids == reply.prompt_token_ids
    flowed = [t for c in chunks for choice in c.choices for t in getattr(choice, "token_ids", [])]
    assert flowed == reply.choices[0].token_ids


def test_prompt_logprobs(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        messages=QUESTION, extra_body={"prompt_logprobs": 1}, **{**GREEDY, "max_tokens": 1}
    )
    entries = reply.prompt_logprobs
    assert entries[0] is None and len(entries) == reply.usage.prompt_tokens
    for entry in entries[1:]:
        ranks = {shown["rank"] for shown in entry.values()}
        assert 1 in ranks and all(shown["logprob"] <= 0 for shown in entry.values())


async def test_many_async_streams_at_once(async_client: openai.AsyncOpenAI) -> None:
    async def one(number: int) -> str:
        messages: Any = [{"role": "user", "content": f"Tell me about the number {number}."}]
        stream = await async_client.chat.completions.create(
            messages=messages, stream=True, **{**GREEDY, "max_tokens": 12}
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    together = await asyncio.gather(*(one(number) for number in range(16)))
    for number in (0, 9):
        assert await one(number) == together[number]


def test_models(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == ["smollm2"]
    assert client.models.retrieve("smollm2").max_model_len == 2048
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
