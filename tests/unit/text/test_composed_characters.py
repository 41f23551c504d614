"""Tokenizers that compose characters first (NFC): the model sees other bytes than the client sent."""

from __future__ import annotations

import unicodedata

import pytest
from test_resumption import THINKING, USER, spelling
from tokenizers import pre_tokenizers
from trained import byte_level_metadata, train_byte_level

from legato.asking import open_answer
from legato.models.info import ModelInfo
from legato.request import Guidance, Request, SamplingParams
from legato.sampling_params import SeedSource
from legato.text.continuation import Prompt, build_prompt
from legato.text.gguf_tokenizer import build_gguf_tokenizer
from legato.text.recall import AnswerMemory
from legato.text.resuming import resume
from legato.text.template import ChatTemplate
from legato.text.thinking import thinking_of
from legato.text.vocabulary import Tokenizer

BEGUN = ['{"name": "e\u0301e\u0301e\u0301', '{"name": "Rene\u0301 Ba', "x\u212b y\u212b", "plain"]
OPENED = ChatTemplate(
    THINKING.sources["default"].replace("assistant\n{%", "assistant\n<think>\n{%")
)


@pytest.fixture(scope="module")
def composing(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As Qwen 2's."""
    trained = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    folder = tmp_path_factory.mktemp("composing")
    metadata = byte_level_metadata(trained, "qwen2", folder)
    return build_gguf_tokenizer(folder / "m.gguf", metadata)


def chat(tokenizer: Tokenizer, template: ChatTemplate = THINKING, **answer: str) -> Prompt:
    return build_prompt(template, tokenizer, [USER, {"role": "assistant", **answer}])


def request(tokenizer: Tokenizer, prompt: Prompt, guidance: Guidance) -> Request:
    info = ModelInfo(
        name="m",
        architecture="a",
        vocab_size=tokenizer.vocab_size,
        max_model_len=4096,
        num_blocks=256,
    )
    params, memory, seeds = SamplingParams(), AnswerMemory(), SeedSource(0)
    return open_answer(
        prompt, params, memory, info, tokenizer, seeds, request_id="r", guidance=guidance
    ).request


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("content", BEGUN)
@pytest.mark.parametrize("reasoning", ["", "The cafe\u0301s, the cafe\u0301s. "])
def test_a_grammar_is_fed_with_no_byte_twice(
    composing: Tokenizer, content: str, reasoning: str
) -> None:
    prompt = chat(composing, content=content, reasoning_content=reasoning)
    made = request(composing, prompt, Guidance(grammar="%llguidance {}"))
    assert made.pending
    assert composed((made.grammar_text + made.pending).decode()) == composed(content)
    seen = spelling(composing, made.output_token_ids) + made.pending
    assert seen.endswith(composed(content).encode())


def test_what_is_not_spelled_again_is_fed_as_it_came(composing: Tokenizer) -> None:
    """A choice's own words may be decomposed."""
    prompt = chat(composing, content="Rene\u0301 Ba")
    made = request(composing, prompt, Guidance(grammar="%llguidance {}"))
    assert (made.grammar_text, made.pending) == ("Rene\u0301".encode(), b" Ba")
    unhealed = Guidance(grammar="%llguidance {}", token_healing=False)
    assert request(composing, prompt, unhealed).grammar_text == "Rene\u0301 Ba".encode()


@pytest.mark.parametrize("template", [THINKING, OPENED])
@pytest.mark.parametrize("healing", [True, False])
def test_thoughts_have_as_many_tokens_as_the_model_sees(
    composing: Tokenizer, template: ChatTemplate, healing: bool
) -> None:
    thoughts = "The cafe\u0301s, " * 20 + "and Rene\u0301"
    used = set()
    for text in (thoughts, composed(thoughts)):
        prompt = chat(composing, template, reasoning_content=text)
        thinking = thinking_of(prompt, 1000, composing)
        guidance = Guidance(thinking=thinking, token_healing=healing)
        made = request(composing, prompt, guidance)
        assert made.thinking is not None
        used.add(made.thinking.used)
        given = spelling(composing, made.output_token_ids[-made.thinking.used :]) + made.pending
        assert given.decode().removeprefix("\n") == composed(thoughts)
    assert len(used) == 1


def test_decomposed_thoughts_do_not_keep_a_word_of_the_answer_from_being_healed(
    composing: Tokenizer,
) -> None:
    thoughts, words = "The cafe\u0301s, " * 20, "It is Rene\u0301"
    found = []
    for form in ("NFD", "NFC"):
        given = {
            "reasoning_content": unicodedata.normalize(form, thoughts),
            "content": unicodedata.normalize(form, words),
        }
        found.append(resume(chat(composing, **given), composing, None, "", healing=True))
    assert found[0] == found[1]
    assert found[0].pending == " René".encode()
