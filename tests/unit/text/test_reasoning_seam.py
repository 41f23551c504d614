"""Prefilled thoughts: inside the open block, or closed before the answer, with every template."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from test_build_prompt import CANNOT_RENDER, USER, assistant

from legato.errors import RequestError
from legato.text.continuation import Prompt, build_prompt
from legato.text.reasoning import BLOCKS
from legato.text.template import ChatTemplate

OKAY = "Okay, \n\n the user "
THINK = "<think>\nOkay, "
CLOSED = "<think>\nOkay.\n</think>\n\nIt is "


Published = dict[str, ChatTemplate]


def chats(published: Published) -> Iterator[tuple[str, ChatTemplate]]:
    return ((name, item) for name, item in published.items() if name not in CANNOT_RENDER)


def build(template: ChatTemplate, **message: Any) -> Prompt:
    wanted = message.pop("wanted", None)
    last = {"role": "assistant", **message}
    return build_prompt(template, None, [USER, last], continue_final_message=wanted)


def test_every_template_continues_thoughts_and_answers(published: Published) -> None:
    count = 0
    for name, template in chats(published):
        inside = build(template, reasoning_content=OKAY)
        assert inside.text[inside.seam :] == inside.prefill == OKAY, name
        assert inside.field == "reasoning_content"
        header = inside.text[: inside.seam]
        for content in ("It is ", [{"type": "text", "text": "It is "}], ""):
            after = build(template, reasoning_content=OKAY, content=content, wanted="content")
            words = "It is " if content else ""
            assert after.text[after.seam :] == after.prefill == words, name
            assert after.text.startswith(header + OKAY), name
            assert (after.field, after.reasoning) == ("content", OKAY)
            between = after.text[len(header + OKAY) : after.seam]
            assert between.strip() and (name in CHANNELS or closed_once(between)), (name, between)
        count += 1
    assert count > 290


# The closing mark is not one of ``BLOCKS``: the channels' own header stands between.
CHANNELS = {"xinf-gpt-oss.jinja", "unsloth-gptoss_template.jinja"}


def closed_once(between: str) -> bool:
    return sum(between.count(block.closing) for block in BLOCKS) == 1


def test_words_that_bring_their_own_block_get_no_second_one(published: Published) -> None:
    for name, template in chats(published):
        for words in (THINK, CLOSED):
            prompt = build(template, content=words)
            assert prompt.text[prompt.seam :] == words, name
            header = prompt.text[: prompt.seam]
            assert not any(header.rstrip().endswith(b.opening) for b in BLOCKS), name
            assert not any(header.rstrip().endswith(b.closing) for b in BLOCKS), name


SEAMS = {
    "trl-qwen3": ("<|im_start|>assistant\n<think>\n", "\n</think>\n\n"),
    "xinf-QwQ-32B": ("<|im_start|>assistant\n<think>\n", "\n</think>\n\n"),
    "xinf-deepseek-r1": ("<｜Assistant｜><think>\n", "\n</think>\n\n"),
    "hfjs-HuggingFaceTB_SmolLM3-3B": ("assistant\n<think>\n", "\n</think>\n\n"),
    # The newline is the model's own: the generation prompt ends before it.
    "xinf-glm-4.5": ("<|assistant|>\n<think>", "</think>\n"),
    "xinf-GLM-4.6": ("<|assistant|>\n<think>", "</think>\n"),
    "trl-glm4moe": ("<|assistant|>\n<think>", "</think>\n"),
    "xinf-GLM-4.7": ("<|assistant|><think>", "</think>"),
    "xinf-seed-oss": ("assistant\n<seed:think>", "</seed:think>\n"),
    "mistral-common-v15_think": ("[/INST][THINK]", "[/THINK]"),
    "trl-qwen3_5_nothink": ("assistant\n<think>\n", "\n</think>\n\n"),
    "hfjs-CohereLabs_command-a-reasoning-08-2025": (
        "<|CHATBOT_TOKEN|><|START_THINKING|>",
        "<|END_THINKING|><|START_RESPONSE|>",
    ),
    "xinf-gpt-oss": (
        "<|start|>assistant<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "unsloth-gemma4_thinking_template": ("<|turn>model\n<|channel>thought\n", "\n<channel|>"),
    "czheng-llama-3-instruct": ("<|end_header_id|>\n\n<think>\n", "\n</think>\n\n"),  # knows none
}


@pytest.mark.parametrize("name", sorted(SEAMS))
def test_the_block_is_the_templates_own(name: str, published: Published) -> None:
    template = published[f"{name}.jinja"]
    header, between = SEAMS[name]
    assert build(template, reasoning_content="Okay, ").text.endswith(header + "Okay, ")
    both = build(template, reasoning_content="Okay.", content="It is ")
    assert both.text.endswith(f"{header}Okay.{between}It is ")
    if between.startswith("\n"):  # the model's own newline is not doubled
        assert build(template, reasoning="Okay.\n", content="It is ").text == both.text


def test_text_that_leaves_the_block_which_the_generation_prompt_opens(
    published: Published,
) -> None:
    """What a server without a reasoning parser gave out as content, sent back."""
    raw = "Okay.\n</think>\n\nIt is "
    template = published["xinf-QwQ-32B.jinja"]
    assert build(template, content=raw).text.endswith("assistant\n<think>\n" + raw)
    mentioned = "Write <think> and </think>: "
    assert build(template, content=mentioned).text.endswith("</think>\n\n" + mentioned)


def test_which_field_goes_on(published: Published) -> None:
    template = published["trl-qwen3.jinja"]
    for wanted in (None, True, "reasoning_content"):
        prompt = build(template, content=None, reasoning_content="So", wanted=wanted)
        assert prompt.text.endswith("<think>\nSo")
    assert build(template, content="", reasoning_content="", wanted="reasoning_content").text
    assert build(template, content="x", reasoning_content="").text.endswith("assistant\nx")
    for message in (assistant("x"), assistant("x", reasoning_content="y")):
        with pytest.raises(RequestError) as caught:
            build(template, **{**message, "wanted": "reasoning_content"})
        assert caught.value.field == "continue_final_message"
