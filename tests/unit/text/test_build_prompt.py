"""Continuing the assistant's words: every published template, every awkward beginning, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import corpus
import pytest

from legato.errors import RequestError
from legato.text.continuation import Prompt, build_prompt
from legato.text.template import ChatTemplate, load_chat_template
from legato.text.vocabulary import Tokenizer

USER = {"role": "user", "content": "What is this?"}
PREFILLS: dict[str, Any] = {
    "plain": "According to",
    "trailing space": "According to ",
    "leading newline": "\nAccording",
    "spaces on both sides": "  According to  ",
    "the user's own words": USER["content"],
    "special tokens": "<|im_end|>\n<|im_start|>user\n</s><end_of_turn>[INST]<|eot_id|>",
    "code": "```python\ndef f(x):\n    return x\n    ",
    "combining": "e\u0301 a\u030a\u200d ",
    "other scripts": "根据 “données” 😀\u00a0é",
    "empty": "",
    "parts": [{"type": "text", "text": "According "}, {"type": "text", "text": "to "}],
    "json": '{"name": "',
    "template syntax": "{{ messages }}{% raw %}",
}
# No templates for a chat of a user and an assistant (and aphrodite-pygchat is not valid Jinja).
CANNOT_RENDER = {
    "hfjs-fireworks-ai_firefunction-v1.jinja": "needs a message with functions",
}
ONE_TURN = {"vllm-template_vlm2vec.jinja"}  # of a model for embeddings: refuses longer chats
TWICE = [USER, {"role": "assistant", "content": "According to"}, USER]


def words_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


@pytest.fixture(scope="module")
def smollm2_template(smollm2_path: Path) -> ChatTemplate:
    template = load_chat_template(smollm2_path)
    assert template is not None
    return template


def check(prompt: Prompt, words: str) -> None:
    assert prompt.prefill == words
    assert prompt.text[prompt.seam :] == words
    assert prompt.text.encode().endswith(words.encode())


def test_every_template_continues_every_beginning(
    published: dict[str, ChatTemplate], smollm2: Tokenizer
) -> None:
    cells = 0
    for name, template in published.items():
        try:
            headers = set()
            for content in PREFILLS.values():
                prompt = build_prompt(template, smollm2, [USER, assistant(content)])
                check(prompt, words_of(content))
                headers.add(prompt.text[: prompt.seam])
                cells += 1
            assert len(headers) == 1, name  # what stands before does not depend on the words
            if name in ONE_TURN:
                continue
            for words in ("According to", str(USER["content"])):  # they occur twice
                check(build_prompt(template, smollm2, [*TWICE, assistant(words)]), words)
                cells += 1
        except RequestError as error:
            assert name in CANNOT_RENDER, f"{name}: {error}"
        else:
            assert name not in CANNOT_RENDER
    assert cells > 280 * len(PREFILLS)


def test_the_header_is_what_the_model_itself_saw(
    published: dict[str, ChatTemplate], smollm2: Tokenizer
) -> None:
    """Most answers begin right after the generation prompt, so that they can be continued there."""
    equal = 0
    for name, template in published.items():
        if name in CANNOT_RENDER:
            continue
        prompt = build_prompt(template, smollm2, [USER, assistant("x")])
        try:
            fresh = build_prompt(template, smollm2, [USER]).text
        except RequestError:
            continue
        equal += prompt.text[: prompt.seam] == fresh
    assert equal > 230


SEAMS = {
    "xinf-QwQ-32B.jinja": "<|im_start|>assistant\n<think>\n\n</think>\n\n",  # opens, never closes
    "xinf-Qwen3-Thinking.jinja": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "xinf-GLM-4.7.jinja": "<|assistant|><think></think>",  # closes without white space
    "xinf-MiniMax-M2.jinja": "]~b]ai\n<think>\n\n</think>\n\n",  # closes only after reasoning
    "trl-qwen3.jinja": "<|im_end|>\n<|im_start|>assistant\n",  # might answer at once
    "xinf-gpt-oss.jinja": "<|start|>assistant<|channel|>final<|message|>",
    "hfjs-meetkai_functionary-medium-v2.2.jinja": "<|recipient|>all\n<|content|>",
    "hfjs-CohereLabs_c4ai-command-a-03-2025.jinja": "<|CHATBOT_TOKEN|><|START_RESPONSE|>",
    "openinstruct-simple_chat.jinja": "User: What is this?\n\nAssistant: ",
    "czheng-vicuna.jinja": "ASSISTANT:",
    "mistral-common-v3_spm.jinja": "[/INST]",
}


@pytest.mark.parametrize("name", sorted(SEAMS))
def test_where_templates_differ_the_seam_is_the_reasonable_one(
    name: str, published: dict[str, ChatTemplate], smollm2: Tokenizer
) -> None:
    prompt = build_prompt(published[name], smollm2, [USER, assistant("According to ")])
    assert prompt.text[: prompt.seam].endswith(SEAMS[name])


class TestTurnsThatAreOpenedUnasked:
    """Templates that do not ask for ``add_generation_prompt``."""

    @pytest.mark.parametrize(
        ("name", "opening"),
        [
            ("hfjs-codellama_CodeLlama-70b-Instruct-hf", "assistant\nDestination: user\n\n "),
            ("mistralrs-mistral_small_tool_call", "\n\nWhat is this?[/SYSTEM_PROMPT]"),
            ("hfjs-meta-llama_Llama-Guard-3-11B-Vision", "assistant<|end_header_id|>"),
        ],
    )
    def test_the_model_wrote_behind_what_is_always_there(
        self, name: str, opening: str, published: dict[str, ChatTemplate]
    ) -> None:
        template = published[f"{name}.jinja"]
        fresh = build_prompt(template, None, [USER]).text
        assert fresh.endswith(opening)
        assert build_prompt(template, None, [USER, assistant("So ")]).text == fresh + "So "

    def test_what_ends_a_text_opens_nothing(self, published: dict[str, ChatTemplate]) -> None:
        template = published["hfjs-blenderbot.jinja"]
        assert build_prompt(template, None, [USER]).text == " What is this?</s>"
        assert build_prompt(template, None, [USER, assistant("So")]).text == " What is this?  So"
        template = published["mistral-common-v15.jinja"]
        twice = [USER, assistant("Well."), assistant("So ")]
        assert build_prompt(template, None, twice).text.endswith("[/INST]Well.\n\nSo ")

    def test_what_ends_a_turn_opens_none(self) -> None:
        """The last turn is shown in another way, and the header stands only before an answer."""
        template = ChatTemplate(
            "{% for m in messages %}<{{ m.role }}>{% if loop.last %}Now: {% endif %}"
            "{{ m.content }}</>{% endfor %}"
        )
        begun = build_prompt(template, None, [USER, assistant("So ")]).text
        assert begun == "<user>What is this?</><assistant>Now: So "


class TestFlags:
    @pytest.fixture(autouse=True)
    def parts(self, smollm2_template: ChatTemplate, smollm2: Tokenizer) -> None:
        self.template, self.tokenizer = smollm2_template, smollm2

    def build(self, *messages: Any, **flags: Any) -> Prompt:
        return build_prompt(self.template, self.tokenizer, list(messages), **flags)

    def test_the_last_message_decides(self) -> None:
        assert self.build(USER).text.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert self.build(USER).prefill == ""
        assert self.build(USER, assistant("So ")).text.endswith("assistant\nSo ")

    def test_a_new_turn_can_be_asked_for(self) -> None:
        for flags in ({"add_generation_prompt": True}, {"continue_final_message": False}):
            prompt = self.build(USER, assistant("So "), **flags)
            assert prompt.text.endswith("So <|im_end|>\n<|im_start|>assistant\n")
            assert prompt.prefill == ""
        assert self.build(USER, add_generation_prompt=False).text.endswith("this?<|im_end|>\n")

    def test_contradictions(self) -> None:
        both = {"continue_final_message": True, "add_generation_prompt": True}
        with pytest.raises(RequestError) as caught:
            self.build(USER, assistant("So"), **both)
        assert str(caught.value) == (
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
        with pytest.raises(RequestError) as caught:
            self.build(USER, continue_final_message=True)
        assert caught.value.field == "continue_final_message"

    def test_an_answer_alone_is_continued_after_the_templates_beginning(self) -> None:
        prompt = self.build(assistant("Once upon "))
        assert prompt.text.startswith("<|im_start|>system\n")
        assert prompt.text.endswith("<|im_start|>assistant\nOnce upon ")

    def test_parts_are_joined_with_nothing_between(self) -> None:
        content = [{"type": "text", "text": "a "}, {"type": "text", "text": "b\n"}]
        prompt = self.build({"role": "user", "content": content}, assistant(content))
        assert "<|im_start|>user\na b\n<|im_end|>" in prompt.text
        assert prompt.prefill == "a b\n"

    @pytest.mark.parametrize(
        ("messages", "field"),
        [
            ([], "messages"),
            (["x"], "messages[0]"),
            ([{"content": "x"}], "messages[0].role"),
            ([{"role": "user", "content": 3}], "messages[0].content"),
            ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
            ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
            ([USER, assistant("x", tool_calls=[{}])], "messages[1].tool_calls"),
            ([USER, assistant("", reasoning_content=3)], "messages[1].reasoning_content"),
            ([{**USER, "prefix": True}, assistant("x")], "messages[0].prefix"),
            ([USER, assistant("x", partial="yes")], "messages[1].partial"),
        ],
    )
    def test_what_is_wrong_is_named(self, messages: list[Any], field: str) -> None:
        with pytest.raises(RequestError) as caught:
            self.build(*messages)
        assert caught.value.field == field

    def test_template_arguments_reach_it_but_cannot_replace_the_request(self) -> None:
        template = ChatTemplate("{{ messages[0].content }}{{ mood }}")
        prompt = build_prompt(template, self.tokenizer, [USER], template_kwargs={"mood": "calm"})
        assert prompt.text == "What is this?calm"
        with pytest.raises(RequestError) as caught:
            self.build(USER, template_kwargs={"messages": []})
        assert caught.value.field == "chat_template_kwargs"


class TestTokens:
    """The prompt's ids are the reference's ids of its text."""

    @pytest.fixture(autouse=True)
    def parts(self, smollm2_template: ChatTemplate, smollm2: Tokenizer) -> None:
        self.template, self.tokenizer = smollm2_template, smollm2

    @pytest.mark.parametrize("name", sorted(set(PREFILLS) - {"special tokens"}))
    def test_equal_to_the_whole_text_encoded(self, name: str) -> None:
        prompt = build_prompt(self.template, self.tokenizer, [USER, assistant(PREFILLS[name])])
        assert prompt.token_ids == self.tokenizer.encode(prompt.text, add_special_tokens=False)

    def test_on_the_corpus(self) -> None:
        for text in corpus.TEXTS:
            prompt = build_prompt(self.template, self.tokenizer, [USER, assistant(text)])
            assert prompt.token_ids == self.tokenizer.encode(prompt.text, add_special_tokens=False)

    def test_a_clients_special_tokens_are_text(self) -> None:
        for text in corpus.SPECIAL:
            prompt = build_prompt(self.template, self.tokenizer, [USER, assistant(text)])
            count = prompt.text[: prompt.seam].count("<|im_")
            specials = [id for id in prompt.token_ids if id in self.tokenizer.special_ids]
            assert len(specials) == count
            decoded = self.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
            assert decoded == prompt.text

    def test_bos_stands_once(self, gemma3: Tokenizer) -> None:
        source = "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n"
        source += "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        source += "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
        template = ChatTemplate(source, bos_token="<bos>")
        for messages in ([USER], [USER, assistant(" So ")]):
            prompt = build_prompt(template, gemma3, messages)
            assert prompt.token_ids.count(2) == 1
            assert prompt.token_ids[0] == 2
