"""What a client may ask of a model's thoughts, and how their block is closed."""

from __future__ import annotations

from typing import Any

import pytest

from legato.errors import RequestError
from legato.text.continuation import build_prompt
from legato.text.template import ChatTemplate
from legato.text.thinking import Wish, thinking_of, wish
from legato.text.vocabulary import Tokenizer

Published = dict[str, ChatTemplate]
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]

WISHES = [
    ("trl-qwen3", False, Wish({"enable_thinking": False})),
    ("trl-qwen3", True, Wish({"enable_thinking": True})),
    ("trl-qwen3", "none", Wish({"enable_thinking": False})),
    ("trl-qwen3", "auto", Wish({"enable_thinking": True})),
    ("trl-qwen3", "high", None),
    ("xinf-Kimi-K2.5", False, Wish({"thinking": False})),
    ("hfjs-CohereLabs_command-a-reasoning-08-2025", False, Wish({"reasoning": False})),
    ("xinf-deepseek-r1", True, Wish()),
    ("xinf-deepseek-r1", False, Wish(forbids=True)),
    ("xinf-gpt-oss", "low", Wish({"reasoning_effort": "low"})),
    ("xinf-gpt-oss", False, Wish(forbids=True)),
    (
        "xinf-qwen3.8",
        "high",
        Wish({"enable_thinking": True, "reasoning_effort": "high"}),
    ),
    ("czheng-llama-3-instruct", True, None),
    ("czheng-llama-3-instruct", "auto", Wish()),
    ("czheng-llama-3-instruct", False, Wish()),
]


@pytest.mark.parametrize(("name", "think", "expected"), WISHES)
def test_a_template_is_told_by_the_variables_it_reads(
    name: str, think: bool | str, expected: Wish | None, published: Published
) -> None:
    template = published[f"{name}.jinja"]
    if expected is not None:
        assert wish(template, think, "think") == expected
        return
    with pytest.raises(RequestError, match=r"^think: this model") as caught:
        wish(template, think, "think")
    assert caught.value.field == "think"


@pytest.mark.parametrize(
    ("name", "kwargs", "closing"),
    [
        ("trl-qwen3", {}, "\n</think>\n\n"),
        ("xinf-GLM-4.7", {}, "</think>"),
        ("xinf-seed-oss", {}, "</seed:think>\n"),
        ("mistral-common-v15_think", {}, "[/THINK]"),
        ("xinf-gpt-oss", {}, "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("trl-qwen3", {"enable_thinking": False}, None),  # the generation prompt closes it
    ],
)
def test_the_block_is_closed_as_the_template_does(
    name: str, kwargs: dict[str, Any], closing: str | None, published: Published, smollm2: Tokenizer
) -> None:
    prompt = build_prompt(published[f"{name}.jinja"], smollm2, ASKED, template_kwargs=kwargs)
    thinking = thinking_of(prompt, 5, smollm2)
    said = thinking and smollm2.decode(thinking.closing_ids, skip_special_tokens=False)
    assert said == closing


def test_where_no_thoughts_come(published: Published, smollm2: Tokenizer) -> None:
    qwen = published["trl-qwen3.jinja"]
    for last in (
        {"content": "It is"},
        {"content": "It is", "reasoning_content": "So."},
        {"content": "<think>\nSo.\n</think>\n\nIt is"},
    ):
        prompt = build_prompt(qwen, smollm2, [*ASKED, {"role": "assistant", **last}])
        assert thinking_of(prompt, 5, smollm2) is None
    prompt = build_prompt(published["czheng-llama-3-instruct.jinja"], smollm2, ASKED)
    assert thinking_of(prompt, None, smollm2) is None
    with pytest.raises(RequestError, match="no thoughts to limit"):
        thinking_of(prompt, 5, smollm2)
