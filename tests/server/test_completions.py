"""Completions through the official client, on the real model."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from running_server import RunningServer

TEXT = "The capital of France is"
GREEDY: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_tokens": 8}


def text_of(client: openai.OpenAI, prompt: Any, **options: Any) -> str:
    return client.completions.create(prompt=prompt, **{**GREEDY, **options}).choices[0].text


def test_text_is_continued(client: openai.OpenAI) -> None:
    reply = client.completions.create(prompt=TEXT, **GREEDY)
    assert reply.object == "text_completion" and reply.id.startswith("cmpl-")
    assert reply.choices[0].text.startswith(" ") and "Paris" in reply.choices[0].text
    assert reply.usage.completion_tokens == 8 and reply.choices[0].finish_reason == "length"


def test_all_shapes_of_prompt_agree(client: openai.OpenAI, server: RunningServer) -> None:
    ids = server.http.post("/tokenize", json={"prompt": TEXT}).json()["tokens"]
    expected = text_of(client, TEXT)
    assert text_of(client, ids) == expected
    for prompt in ([TEXT, "One, two,"], [ids, ids[:3]]):
        choices = client.completions.create(prompt=prompt, **GREEDY).choices
        assert [choice.index for choice in choices] == [0, 1]
        assert choices[0].text == expected


def test_sixteen_tokens_unless_said(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="smollm2", prompt=TEXT, extra_body={"ignore_eos": True})
    assert reply.usage.completion_tokens == 16


def test_several_prompts_several_choices(client: openai.OpenAI) -> None:
    options = {**GREEDY, "n": 2, "temperature": 1.0, "seed": 3}
    reply = client.completions.create(prompt=[TEXT, "One, two,"], **options)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    texts = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(prompt=[TEXT, "One, two,"], stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {choice.index: choice.text for choice in reply.choices}


def test_echo(client: openai.OpenAI) -> None:
    text = text_of(client, TEXT)
    assert text_of(client, TEXT, echo=True) == TEXT + text
    stream = client.completions.create(prompt=TEXT, echo=True, stream=True, **GREEDY)
    assert "".join(choice.text for chunk in stream for choice in chunk.choices) == TEXT + text


def test_logprobs_with_offsets(client: openai.OpenAI) -> None:
    choice = client.completions.create(prompt=TEXT, logprobs=2, echo=True, **GREEDY).choices[0]
    shown = choice.logprobs
    assert "".join(shown.tokens) == choice.text
    for token, offset in zip(shown.tokens, shown.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token
    assert shown.token_logprobs[0] is None and shown.top_logprobs[0] is None
    for logprob, best in zip(shown.token_logprobs[1:], shown.top_logprobs[1:], strict=True):
        assert 2 <= len(best) <= 3 and logprob in best.values()
    without = client.completions.create(prompt=TEXT, logprobs=2, **GREEDY).choices[0].logprobs
    assert without.tokens == shown.tokens[-8:] and without.text_offset[0] == 0
    assert without.token_logprobs == shown.token_logprobs[-8:]


def test_streamed_logprobs_are_the_same(client: openai.OpenAI) -> None:
    options = {**GREEDY, "logprobs": 1, "echo": True}
    whole = client.completions.create(prompt=TEXT, **options).choices[0].logprobs
    offsets, tokens, logprobs = [], [], []
    for chunk in client.completions.create(prompt=TEXT, stream=True, **options):
        shown = chunk.choices[0].logprobs
        if shown is not None:
            offsets += shown.text_offset
            tokens += shown.tokens
            logprobs += shown.token_logprobs
    assert (offsets, tokens) == (whole.text_offset, whole.tokens)
    assert logprobs == whole.token_logprobs


def test_scoring_a_prompt(client: openai.OpenAI) -> None:
    options = {**GREEDY, "max_tokens": 0}
    reply = client.completions.create(prompt=TEXT, echo=True, logprobs=0, **options)
    choice = reply.choices[0]
    assert choice.text == TEXT and len(choice.logprobs.tokens) == reply.usage.prompt_tokens
    assert reply.usage.completion_tokens == 0 and choice.finish_reason == "length"
    stream = client.completions.create(prompt=TEXT, echo=True, logprobs=0, stream=True, **options)
    assert "".join(choice.text for chunk in stream for choice in chunk.choices) == TEXT


def test_penalties_change_the_answer(client: openai.OpenAI) -> None:
    prompt = "red red red red red red red red"
    plain = text_of(client, prompt)
    assert text_of(client, prompt, extra_body={"repetition_penalty": 1.8}) != plain
    assert text_of(client, prompt, frequency_penalty=2.0) != plain


@pytest.mark.parametrize(
    "options", [{"extra_body": {"top_k": 1}}, {"top_p": 1e-6}, {"extra_body": {"min_p": 1.0}}]
)
def test_narrow_sampling_is_greedy(client: openai.OpenAI, options: dict[str, Any]) -> None:
    assert text_of(client, TEXT, temperature=1.0, seed=9, **options) == text_of(client, TEXT)


def test_special_tokens_are_hidden_unless_asked_for(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"logit_bias": {"2": 100}, "max_tokens": 2}
    assert text_of(client, TEXT, extra_body={"ignore_eos": True}, **options) == ""
    shown = {"ignore_eos": True, "skip_special_tokens": False}
    assert text_of(client, TEXT, extra_body=shown, **options) == "<|im_end|>" * 2


def test_tokenize_and_back(server: RunningServer) -> None:
    text = "  naïve\n東京 <|im_start|>x"
    body = {"prompt": text, "return_token_strs": True}
    reply = server.http.post("/tokenize", json=body).json()
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert reply["max_model_len"] == 2048
    back = server.http.post("/detokenize", json={"tokens": reply["tokens"]}).json()
    assert back == {"prompt": text}
