"""Where an answer is resumed: nothing of the given text is lost, and what is kept would be kept anyway."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

import corpus
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_trained_tokenizers import PUBLISHED
from tokenizers import pre_tokenizers
from trained import byte_level_metadata, train_byte_level

from legato.asking import completion_prompt
from legato.text.continuation import Prompt, build_prompt
from legato.text.gguf_tokenizer import build_gguf_tokenizer
from legato.text.resuming import MAX_BACK, resume
from legato.text.resumption import Resumption
from legato.text.template import ChatTemplate
from legato.text.trace import word_start
from legato.text.vocabulary import Tokenizer

PLAIN = ChatTemplate(
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
THINKING = ChatTemplate(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = {"role": "user", "content": "Which three?"}


def chat(
    tokenizer: Tokenizer, words: str, *, template: ChatTemplate = THINKING, **message: Any
) -> Prompt:
    answer = {"role": "assistant", "content": words, **message}
    return build_prompt(template, tokenizer, [USER, answer])


def healed(tokenizer: Tokenizer, prompt: Prompt) -> Resumption:
    return resume(prompt, tokenizer, None, "", healing=True)


def spelling(tokenizer: Tokenizer, ids: Iterable[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


class TestWithoutWords:
    def test_a_fresh_answer_begins_behind_the_prompt(self, smollm2: Tokenizer) -> None:
        prompt = build_prompt(PLAIN, smollm2, [USER])
        assert healed(smollm2, prompt) == Resumption(prompt.token_ids, [], b"", [])

    def test_an_empty_beginning_is_none(self, smollm2: Tokenizer) -> None:
        prompt = chat(smollm2, "")
        assert healed(smollm2, prompt) == Resumption(prompt.token_ids, [], b"", [])

    def test_token_ids_stay_as_they_are(self, smollm2: Tokenizer) -> None:
        ids = smollm2.encode("The three prim")
        prompt = completion_prompt(smollm2, ids)
        assert healed(smollm2, prompt) == Resumption(ids, [], b"", [])


@pytest.mark.parametrize(
    ("words", "pending"),
    [
        ("The three prim", " prim"),
        ("According to ", " to "),
        ("one\n\ntwo", "\n\ntwo"),
        ("one\r\ntwo", "\r\ntwo"),
        ("a\tb", "\tb"),
        ("def f():\n    return 12", " 12"),
        ("def f():\n    ", " f():\n    "),
        ("it costs 1234", " 1234"),
        ("so it is...", " is..."),
        ("Hi 👩‍👩", " 👩‍👩"),
        ("a cafe\u0301", " cafe\u0301"),
        ("full\u3000width", "\u3000width"),
    ],
)
def test_the_last_word_is_taken_back_with_the_space_around_it(
    smollm2: Tokenizer, gemma3: Tokenizer, words: str, pending: str
) -> None:
    for tokenizer in (smollm2, gemma3):
        resumption = healed(tokenizer, completion_prompt(tokenizer, "Well, " + words))
        # A token may begin before the word, as "():\n    " does.
        assert resumption.pending.endswith(pending.encode())
        assert spelling(tokenizer, resumption.draft) == resumption.pending
        assert len(resumption.pending) <= len(pending.encode()) + 3


def test_where_a_word_starts() -> None:
    for text in ("one", " one", "one ", "", "  "):
        assert word_start(text.encode()) == 0
    assert word_start(b"one two") == 3
    assert word_start("é\u3000\u00a0two \n".encode()) == 2
    assert word_start("é 😀".encode()[1:]) == 1  # half a character is a letter


class TestChats:
    def test_the_header_is_as_the_model_saw_it(self, smollm2: Tokenizer) -> None:
        """A token that crosses the seam would be none that the model was given."""
        prompt = chat(smollm2, "Paris is nice", template=PLAIN)
        fresh = build_prompt(PLAIN, smollm2, [USER])
        assert prompt.token_ids[: len(fresh.token_ids)] != fresh.token_ids
        resumption = healed(smollm2, prompt)
        assert resumption.prompt_token_ids == fresh.token_ids
        assert spelling(smollm2, resumption.output_token_ids) == b"Paris is"
        assert resumption.pending == b" nice"

    def test_without_healing_a_crossing_token_is_of_the_words(self, smollm2: Tokenizer) -> None:
        prompt = chat(smollm2, "Paris is nice", template=PLAIN)
        resumption = resume(prompt, smollm2, None, "", healing=False)
        given = resumption.prompt_token_ids + resumption.output_token_ids
        assert given == prompt.token_ids
        assert spelling(smollm2, resumption.output_token_ids) == b" Paris is nice"
        assert (resumption.pending, resumption.draft) == (b"", [])

    def test_a_single_word_is_taken_back_to_the_header(self, tokenizer: Tokenizer) -> None:
        prompt = chat(tokenizer, "Par")
        resumption = healed(tokenizer, prompt)
        assert resumption.prompt_token_ids == prompt.header_ids
        assert resumption.output_token_ids == []
        assert resumption.pending == b"Par"

    def test_no_space_is_put_before_words_in_the_middle(self, tokenizer: Tokenizer) -> None:
        for template in (PLAIN, THINKING):
            prompt = chat(tokenizer, "Paris", template=template)
            assert spelling(tokenizer, prompt.words_ids) == b"Paris"

    def test_names_of_control_tokens_stay_text(self, smollm2: Tokenizer) -> None:
        words = "Say <|im_end|> and <|im_start|>"
        prompt = build_prompt(
            THINKING,
            smollm2,
            [
                {"role": "user", "content": "What is <|im_end|>?"},
                {"role": "assistant", "content": words},
            ],
        )
        assert not smollm2.special_ids & set(prompt.words_ids)
        assert smollm2.decode(prompt.words_ids) == words
        whole = prompt.header_ids + prompt.words_ids
        assert smollm2.decode(whole, skip_special_tokens=False) == prompt.text
        assert whole == prompt.token_ids

    def test_the_header_of_a_continued_chat_is_the_prompt_of_a_fresh_one(
        self, tokenizer: Tokenizer
    ) -> None:
        for template in (PLAIN, THINKING):
            for text in corpus.TEXTS[::5]:
                user = {"role": "user", "content": text + " <|im_end|> <s>"}
                fresh = build_prompt(template, tokenizer, [user])
                answer = {"role": "assistant", "content": text or "x"}
                continued = build_prompt(template, tokenizer, [user, answer])
                assert continued.header_ids == fresh.token_ids


class TestThoughts:
    """The model writes them itself: they are words of its answer."""

    def test_thoughts_before_the_content(self, smollm2: Tokenizer) -> None:
        prompt = chat(smollm2, "Red and gre", reasoning_content="Colours.")
        assert prompt.text[: prompt.answer_start].endswith("<|im_start|>assistant\n")
        own = prompt.text[prompt.answer_start :]
        assert own == "<think>\nColours.\n</think>\n\nRed and gre"
        assert spelling(smollm2, prompt.words_ids) == own.encode()
        resumption = healed(smollm2, prompt)
        assert resumption.prompt_token_ids == prompt.header_ids
        assert resumption.pending == b" gre"

    def test_thoughts_that_go_on(self, smollm2: Tokenizer) -> None:
        prompt = build_prompt(
            THINKING,
            smollm2,
            [USER, {"role": "assistant", "content": "", "reasoning_content": "Well, col"}],
        )
        assert prompt.text[prompt.answer_start :] == "<think>\nWell, col"
        assert healed(smollm2, prompt).pending == b" col"

    def test_nothing_before_the_seam_is_taken_back(self, smollm2: Tokenizer) -> None:
        prompt = chat(smollm2, "Re", reasoning_content="Colours.")
        assert healed(smollm2, prompt).pending == b"Re"

    def test_a_mark_that_the_generation_prompt_opened(self, smollm2: Tokenizer) -> None:
        opening = ChatTemplate(THINKING.sources["default"].replace("t\n{% e", "t\n<think>\n{% e"))
        prompt = build_prompt(
            opening,
            smollm2,
            [USER, {"role": "assistant", "content": "", "reasoning_content": "Well"}],
        )
        assert prompt.answer_start == prompt.seam
        assert prompt.text.endswith("assistant\n<think>\nWell")


class TestFloors:
    def test_a_completion_keeps_its_bos(self, gemma3: Tokenizer) -> None:
        resumption = healed(gemma3, completion_prompt(gemma3, "The"))
        assert resumption.prompt_token_ids == [gemma3.bos_token_id]
        assert resumption.pending == b"The"

    def test_a_completion_without_bos_keeps_a_token(self, smollm2: Tokenizer) -> None:
        prompt = completion_prompt(smollm2, "The")
        assert healed(smollm2, prompt) == Resumption(prompt.token_ids, [], b"", [])

    def test_control_tokens_are_not_taken_back(self, smollm2: Tokenizer) -> None:
        prompt = completion_prompt(smollm2, "one<|im_start|>two")
        resumption = healed(smollm2, prompt)
        assert resumption.pending == b"two"
        assert resumption.prompt_token_ids[-1] == smollm2.token_id("<|im_start|>")
        ended = completion_prompt(smollm2, "one two<|im_end|>")
        assert healed(smollm2, ended).prompt_token_ids == ended.token_ids

    def test_other_added_tokens_are_whole(self, gemma3: Tokenizer) -> None:
        prompt = completion_prompt(gemma3, "one <table>two")
        assert healed(gemma3, prompt).pending == b"two"

    def test_runs_of_white_space_are_no_words_though_they_are_added_tokens(
        self, gemma3: Tokenizer
    ) -> None:
        prompt = completion_prompt(gemma3, "one two:\n\n")
        assert healed(gemma3, prompt).pending == b" two:\n\n"

    def test_of_a_long_word_sixteen_tokens_are_taken_back(self, smollm2: Tokenizer) -> None:
        """A number has a token for each digit."""
        resumption = healed(smollm2, completion_prompt(smollm2, "It is " + "7" * 40))
        assert resumption.pending == b"7" * 16 and len(resumption.draft) == 16

    def test_long_words_are_taken_back_in_part(self, tokenizer: Tokenizer) -> None:
        for letters in ("今日は良い天気ですね" * 9, "QmFzZTY0" * 30, "=" * 3000, "😀" * 30):
            prompt = completion_prompt(tokenizer, "Look: " + letters)
            resumption = healed(tokenizer, prompt)
            assert 0 < len(resumption.draft) <= MAX_BACK
            resumption.pending.decode()  # whole characters


class TestNamedAnswers:
    """The seam of a raw prompt says which tokens are the answer's, and changes none."""

    @pytest.mark.parametrize("cut", range(4, 40))
    def test_only_the_count_changes(self, tokenizer: Tokenizer, cut: int) -> None:
        text = "Look: the three primary colours are red."
        plain = healed(tokenizer, completion_prompt(tokenizer, text))
        named = healed(tokenizer, completion_prompt(tokenizer, text, seam=cut))
        assert named.prompt_token_ids + named.output_token_ids == plain.prompt_token_ids
        assert (named.pending, named.draft) == (plain.pending, plain.draft)
        header = healed(tokenizer, completion_prompt(tokenizer, text[:cut]))
        assert spelling(tokenizer, header.prompt_token_ids).startswith(
            spelling(tokenizer, named.prompt_token_ids)
        )

    def test_a_grammar_begins_with_the_answer(self, tokenizer: Tokenizer) -> None:
        text = "Look: the three primary colours are red."
        for cut in range(7, 40):
            prompt = completion_prompt(tokenizer, text, seam=cut)
            found = resume(prompt, tokenizer, None, "", healing=True, within_answer=True)
            answer = spelling(tokenizer, found.output_token_ids) + found.pending
            assert answer == text[cut:].encode()
            assert spelling(tokenizer, found.prompt_token_ids).endswith(text[:cut].encode())


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30) | st.lists(
    st.sampled_from(
        [*corpus.TEXTS, " ", "\n", "  ", "\r\n", "<|im_end|>", "<think>", "é", "👩‍👩‍👧", "x"]
    )
).map("".join)
quickly = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quickly
@given(text=TEXTS.filter(bool))
def test_no_byte_of_a_completion_is_lost(tokenizer: Tokenizer, text: str) -> None:
    prompt = completion_prompt(tokenizer, text)
    resumption = healed(tokenizer, prompt)
    kept = resumption.prompt_token_ids
    assert resumption.output_token_ids == []
    assert kept + resumption.draft == prompt.token_ids
    assert spelling(tokenizer, resumption.draft) == resumption.pending
    assert len(resumption.draft) <= MAX_BACK
    assert kept or not prompt.token_ids
    assert not tokenizer.special_ids & set(resumption.draft)


@quickly
@given(text=TEXTS.filter(bool), template=st.sampled_from([PLAIN, THINKING]))
def test_no_byte_of_a_chat_is_lost(tokenizer: Tokenizer, text: str, template: ChatTemplate) -> None:
    prompt = chat(tokenizer, text, template=template)
    resumption = healed(tokenizer, prompt)
    assert resumption.prompt_token_ids == prompt.header_ids
    assert resumption.output_token_ids + resumption.draft == prompt.words_ids
    assert spelling(tokenizer, resumption.draft) == resumption.pending
    if spelling(tokenizer, prompt.words_ids) == text.encode():  # a vocabulary may lack a byte
        assert text.encode().endswith(resumption.pending)
    fresh = build_prompt(template, tokenizer, [USER])
    assert prompt.header_ids == fresh.token_ids


def kept_count(tokenizer: Tokenizer, text: str) -> int:
    """Tokens kept of ``text``, as if a header stood before it."""
    prompt = Prompt(
        text, [], 0, text, template=PLAIN, header_ids=[0], words_ids=ids_of(tokenizer, text)
    )
    return len(healed(tokenizer, prompt).output_token_ids)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def unsafe_cuts(tokenizer: Tokenizer, text: str) -> list[int]:
    """Cuts where a kept token is none of the whole text's."""
    whole = ids_of(tokenizer, text)
    found = []
    for cut in range(1, len(text)):
        ids = ids_of(tokenizer, text[:cut])
        pairs = zip(ids, whole, strict=False)
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if kept_count(tokenizer, text[:cut]) > alike:
            found.append(cut)
    return found


def test_what_is_kept_is_kept_however_the_text_goes_on(tokenizer: Tokenizer) -> None:
    text = " ".join(text for text in corpus.TEXTS if len(text) < 200)
    for start in range(0, len(text), 300):
        assert unsafe_cuts(tokenizer, text[start : start + 300]) == []


@pytest.mark.parametrize("pre", sorted(PUBLISHED))
def test_what_is_kept_is_kept_whatever_cuts_the_words(pre: str, tmp_path: Path) -> None:
    cut = pre_tokenizers.Split(tokenizers.Regex(PUBLISHED[pre]), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained = train_byte_level(pre_tokenizers.Sequence([cut, letters]))
    metadata = byte_level_metadata(trained, pre, tmp_path)
    tokenizer = build_gguf_tokenizer(tmp_path / "m.gguf", metadata)
    for text in corpus.TEXTS[::2]:
        assert unsafe_cuts(tokenizer, text[:120]) == []
