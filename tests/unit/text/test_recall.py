"""Remembered answers: a continuation goes on from the very tokens that the model wrote."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_resumption import PLAIN, THINKING, USER, chat, spelling

from legato.asking import completion_prompt
from legato.text.continuation import Prompt, build_prompt
from legato.text.quoting import Quotes
from legato.text.recall import AnswerMemory, Remembered
from legato.text.resuming import resume
from legato.text.resumption import Resumption
from legato.text.vocabulary import Tokenizer

ANSWER = "Red, green and blue\nare the primary colours. Grüße 😀 today"
QUESTION = "The three prim"


@pytest.fixture
def memory() -> AnswerMemory:
    return AnswerMemory()


def unusual(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids that spell ``text`` as the tokenizer would not: words in two parts."""
    ids: list[int] = []
    for at in range(0, len(text), 3):
        ids += tokenizer.encode_words(text[at : at + 3], 0, Quotes(None, None))
    assert spelling(tokenizer, ids) == text.encode()
    return ids


def answered(
    memory: AnswerMemory, tokenizer: Tokenizer, prompt: Prompt, ids: Sequence[int], salt: str = ""
) -> Resumption:
    """An answer to ``prompt`` came, token by token: first what spells ``pending``."""
    resumption = resume(prompt, tokenizer, memory, salt, healing=True)
    remembered = memory.begin(salt, prompt, resumption)
    for id in [*resumption.draft, *ids]:
        remembered.extend([id])
    return resumption


def all_ids(resumption: Resumption) -> list[int]:
    return resumption.prompt_token_ids + resumption.output_token_ids


def check_exact(
    tokenizer: Tokenizer, resumption: Resumption, before: list[int], ids: list[int], words: bytes
) -> None:
    """The continuation stands where ``ids`` stood when they had spelled ``words``."""
    kept = all_ids(resumption)
    assert kept[: len(before)] == before
    count = len(kept) - len(before)
    assert kept[len(before) :] == ids[:count]
    assert spelling(tokenizer, ids[:count]) + resumption.pending == words
    if resumption.pending:
        assert resumption.draft == [ids[count]]
        assert len(tokenizer.token_bytes(ids[count])) > len(resumption.pending)
    else:
        assert resumption.draft == []


class TestAnyTokensResumeExactly:
    """At every character of an answer in unusual tokens."""

    def test_in_a_chat(self, memory: AnswerMemory, tokenizer: Tokenizer) -> None:
        for template in (PLAIN, THINKING):
            fresh = build_prompt(template, tokenizer, [USER])
            ids = unusual(tokenizer, ANSWER)
            answered(memory, tokenizer, fresh, ids)
            for cut in range(1, len(ANSWER) + 1):
                prompt = chat(tokenizer, ANSWER[:cut], template=template)
                found = resume(prompt, tokenizer, memory, "", healing=True)
                assert found.prompt_token_ids == fresh.token_ids
                words = ANSWER[:cut].encode()
                check_exact(tokenizer, found, fresh.token_ids, ids, words)

    def test_in_a_completion(self, memory: AnswerMemory, tokenizer: Tokenizer) -> None:
        first = completion_prompt(tokenizer, QUESTION)
        ids = unusual(tokenizer, ANSWER)
        begun = answered(memory, tokenizer, first, ids)
        for cut in range(1, len(ANSWER) + 1):
            prompt = completion_prompt(tokenizer, QUESTION + ANSWER[:cut])
            found = resume(prompt, tokenizer, memory, "", healing=True)
            assert found.output_token_ids == []
            words = begun.pending + ANSWER[:cut].encode()
            check_exact(tokenizer, found, begun.prompt_token_ids, begun.draft + ids, words)

    def test_with_thoughts(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        fresh = build_prompt(THINKING, smollm2, [USER])
        own = "<think>\nColours.\n</think>\n\nRed and green"
        ids = unusual(smollm2, own)
        answered(memory, smollm2, fresh, ids)
        prompt = chat(smollm2, "Red and gre", reasoning_content="Colours.")
        found = resume(prompt, smollm2, memory, "", healing=True)
        check_exact(smollm2, found, fresh.token_ids, ids, own[:-2].encode())
        thoughts = {"role": "assistant", "content": "", "reasoning_content": "Col"}
        prompt = build_prompt(THINKING, smollm2, [USER, thoughts])
        found = resume(prompt, smollm2, memory, "", healing=True)
        check_exact(smollm2, found, fresh.token_ids, ids, b"<think>\nCol")

    @pytest.mark.parametrize("cuts", [(5, 6, 30), (20, 21, 22, 23), (1, 19, 40)])
    @pytest.mark.parametrize("chats", [True, False])
    def test_continued_again_and_again(
        self, smollm2: Tokenizer, cuts: tuple[int, ...], chats: bool
    ) -> None:
        """Nothing but the latest continuation is remembered."""
        memory = AnswerMemory(max_answers=1)
        ids = unusual(smollm2, ANSWER)
        first = completion_prompt(smollm2, QUESTION)
        first = build_prompt(PLAIN, smollm2, [USER]) if chats else first
        memory.begin("", first, Resumption(first.token_ids, [], b"", [])).extend(ids)
        for cut in cuts:
            words = ANSWER[:cut]
            prompt = completion_prompt(smollm2, QUESTION + words)
            prompt = chat(smollm2, words, template=PLAIN) if chats else prompt
            found = resume(prompt, smollm2, memory, "", healing=True)
            check_exact(smollm2, found, first.token_ids, ids, words.encode())
            count = len(all_ids(found)) - len(first.token_ids)
            memory.begin("", prompt, found).extend(ids[count:])
            assert len(memory) == 1


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_byte_is_lost(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Whatever was answered, and whatever of it is given, with something of the client's or not."""
    some = st.integers(0, tokenizer.vocab_size - 1).filter(
        lambda id: id not in tokenizer.special_ids
    )
    pieces = data.draw(
        st.lists(st.sampled_from([QUESTION, ANSWER, "\n", "  "]) | some, max_size=12)
    )
    ids = [
        id
        for piece in pieces
        for id in ([piece] if isinstance(piece, int) else unusual(tokenizer, piece))
    ]
    answer = spelling(tokenizer, ids).decode("utf-8", "ignore")
    cut = data.draw(st.integers(0, len(answer)))
    words = answer[:cut] + data.draw(st.sampled_from(["", "", "", " ", "x", "é", "\n\nNo, "]))
    fresh = build_prompt(PLAIN, tokenizer, [USER])
    first = completion_prompt(tokenizer, QUESTION)
    memory = AnswerMemory()
    for prompt in (fresh, first):
        answered(memory, tokenizer, prompt, ids)
    chatted = chat(tokenizer, words, template=PLAIN)
    completed = completion_prompt(tokenizer, QUESTION + words)
    for before, prompt in ((fresh, chatted), (first, completed)):
        found = resume(prompt, tokenizer, memory, "", healing=True)
        header = spelling(tokenizer, before.token_ids)
        given = spelling(tokenizer, all_ids(found)) + found.pending
        assert given == header + words.encode() or words.encode() not in spelling(
            tokenizer, prompt.token_ids
        )
        drafted = spelling(tokenizer, found.draft)
        assert drafted.startswith(found.pending) and bool(drafted) == bool(found.pending)
        assert spelling(tokenizer, found.draft[:-1]) < found.pending or not found.draft


class TestWordsOfTheClient:
    @pytest.mark.parametrize(
        "words", ["Red, greenish", "Red, gre and more", "Blue", ANSWER + " and more", "Red, green!"]
    )
    def test_other_words_are_spelled_as_ever(
        self, memory: AnswerMemory, smollm2: Tokenizer, words: str
    ) -> None:
        """What happened before must not change how a client's own text is read."""
        fresh = build_prompt(PLAIN, smollm2, [USER])
        answered(memory, smollm2, fresh, smollm2.encode(ANSWER, add_special_tokens=False))
        prompt = chat(smollm2, words, template=PLAIN)
        found = resume(prompt, smollm2, memory, "", healing=True)
        assert found == resume(prompt, smollm2, None, "", healing=True)

    def test_common_words_keep_their_tokens(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        """Those before the last common word; what follows is spelled as ever."""
        fresh = build_prompt(PLAIN, smollm2, [USER])
        ids = unusual(smollm2, "Red green and blue")
        words = unusual(smollm2, "Red green and")
        assert ids[: len(words)] == words != smollm2.encode("Red green and")
        answered(memory, smollm2, fresh, ids)
        prompt = chat(smollm2, "Red green and black or white", template=PLAIN)
        found = resume(prompt, smollm2, memory, "", healing=True)
        assert found.output_token_ids == words + smollm2.encode(" black or")
        assert found.pending == b" white"

    def test_the_longest_match_wins(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        fresh = build_prompt(PLAIN, smollm2, [USER])
        ids = unusual(smollm2, ANSWER)
        answered(memory, smollm2, fresh, ids)
        answered(memory, smollm2, fresh, smollm2.encode("Red, green or black"))
        prompt = chat(smollm2, "Red, green and bl", template=PLAIN)
        found = resume(prompt, smollm2, memory, "", healing=True)
        check_exact(smollm2, found, fresh.token_ids, ids, b"Red, green and bl")

    def test_the_latest_of_equals_wins(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        first = completion_prompt(smollm2, QUESTION)
        answered(memory, smollm2, first, smollm2.encode("aries are red"))
        ids = unusual(smollm2, "aries are red")
        begun = answered(memory, smollm2, first, ids)
        words = "aries are r"
        prompt = completion_prompt(smollm2, QUESTION + words)
        found = resume(prompt, smollm2, memory, "", healing=True)
        expected = begun.pending + words.encode()
        check_exact(smollm2, found, begun.prompt_token_ids, begun.draft + ids, expected)


class TestHiddenTokens:
    def test_an_end_token_is_not_taken(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        fresh = build_prompt(PLAIN, smollm2, [USER])
        ids = unusual(smollm2, ANSWER)
        answered(memory, smollm2, fresh, [*ids, smollm2.eos_token_ids[0]])
        prompt = chat(smollm2, ANSWER, template=PLAIN)
        found = resume(prompt, smollm2, memory, "", healing=True)
        assert found == Resumption(fresh.token_ids, ids, b"", [])

    def test_one_between_words_is(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        fresh = build_prompt(PLAIN, smollm2, [USER])
        end = smollm2.eos_token_ids[0]
        ids = [*unusual(smollm2, "Red."), end, *smollm2.encode(" Green")]
        answered(memory, smollm2, fresh, ids)
        prompt = chat(smollm2, "Red. G", template=PLAIN)
        found = resume(prompt, smollm2, memory, "", healing=True)
        assert found.output_token_ids == ids[: ids.index(end) + 1]
        assert found.pending == b" G"

    def test_one_in_the_words_must_be_there(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        """A completion's text may name control tokens."""
        first = completion_prompt(smollm2, "Well,")
        end = smollm2.token_id("<|im_end|>")
        assert end is not None
        ids = [*unusual(smollm2, " one"), end, *smollm2.encode("two")]
        begun = answered(memory, smollm2, first, ids)
        prompt = completion_prompt(smollm2, "Well, one<|im_end|>tw")
        found = resume(prompt, smollm2, memory, "", healing=True)
        assert found.prompt_token_ids == [*begun.prompt_token_ids, *begun.draft, *ids[:-1]]
        assert (found.pending, found.draft) == (b"tw", ids[-1:])
        other = completion_prompt(smollm2, "Well, o<|im_end|>ne")
        usual = resume(other, smollm2, None, "", healing=True)
        assert resume(other, smollm2, memory, "", healing=True) == usual


class TestWithoutHealing:
    def test_a_token_boundary_is_used(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        fresh = build_prompt(PLAIN, smollm2, [USER])
        ids = unusual(smollm2, "Red and green")
        ends = {len(spelling(smollm2, ids[:count])) for count in range(1, len(ids) + 1)}
        answered(memory, smollm2, fresh, ids)
        for cut in range(1, 14):
            words = "Red and green"[:cut]
            prompt = chat(smollm2, words, template=PLAIN)
            found = resume(prompt, smollm2, memory, "", healing=False)
            assert (found.pending, found.draft) == (b"", [])
            if cut in ends:
                check_exact(smollm2, found, fresh.token_ids, ids, words.encode())
            else:
                assert all_ids(found) == prompt.token_ids


class TestWhoSeesWhat:
    def test_salts_keep_answers_apart(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        ids = unusual(smollm2, ANSWER)
        answered(memory, smollm2, build_prompt(PLAIN, smollm2, [USER]), ids, salt="mine")
        answered(memory, smollm2, completion_prompt(smollm2, QUESTION), ids, salt="mine")
        chatted = chat(smollm2, ANSWER[:20], template=PLAIN)
        completed = completion_prompt(smollm2, QUESTION + ANSWER[:20])
        for prompt in (chatted, completed):
            usual = resume(prompt, smollm2, None, "", healing=True)
            for salt in ("", "yours"):
                assert resume(prompt, smollm2, memory, salt, healing=True) == usual
            assert resume(prompt, smollm2, memory, "mine", healing=True) != usual

    def test_other_questions_have_other_answers(
        self, memory: AnswerMemory, smollm2: Tokenizer
    ) -> None:
        answered(memory, smollm2, build_prompt(THINKING, smollm2, [USER]), unusual(smollm2, ANSWER))
        prompt = chat(smollm2, ANSWER[:20], template=PLAIN)
        assert memory.recall("", prompt, smollm2) is None

    def test_a_prompt_without_bos_is_another(self, memory: AnswerMemory, gemma3: Tokenizer) -> None:
        answered(memory, gemma3, completion_prompt(gemma3, QUESTION), unusual(gemma3, ANSWER))
        text = QUESTION + ANSWER[:20]
        assert memory.recall("", completion_prompt(gemma3, text), gemma3) is not None
        bare = completion_prompt(gemma3, text, add_special_tokens=False)
        assert memory.recall("", bare, gemma3) is None

    def test_another_prompt_of_the_same_length_has_other_answers(
        self, memory: AnswerMemory, smollm2: Tokenizer
    ) -> None:
        mine, yours = (f"My name is {name}. The three primary" for name in ("Ann", "Bob"))
        answered(memory, smollm2, completion_prompt(smollm2, mine), unusual(smollm2, ANSWER))
        for text, is_known in ((mine, True), (yours, False)):
            prompt = completion_prompt(smollm2, text + ANSWER[:9])
            assert (memory.recall("", prompt, smollm2) is not None) == is_known

    def test_the_same_prompt_again_is_no_continuation(
        self, memory: AnswerMemory, smollm2: Tokenizer
    ) -> None:
        first = completion_prompt(smollm2, QUESTION)
        answered(memory, smollm2, first, unusual(smollm2, ANSWER))
        assert memory.recall("", first, smollm2) is None

    def test_token_ids_are_not_remembered(self, memory: AnswerMemory, smollm2: Tokenizer) -> None:
        answered(memory, smollm2, completion_prompt(smollm2, smollm2.encode(QUESTION)), [1, 2])
        assert len(memory) == 0


class TestBounds:
    def test_the_least_recently_used_makes_room(self, smollm2: Tokenizer) -> None:
        memory = AnswerMemory(max_answers=3)
        questions = ["One is", "Two are", "Three are", "Four are"]
        ids = unusual(smollm2, ANSWER)

        def knows(question: str) -> bool:
            prompt = completion_prompt(smollm2, question + ANSWER[:9])
            return memory.recall("", prompt, smollm2) is not None

        for question in questions[:3]:
            answered(memory, smollm2, completion_prompt(smollm2, question), ids)
        assert knows(questions[0])
        answered(memory, smollm2, completion_prompt(smollm2, questions[3]), ids)
        assert [knows(question) for question in questions] == [True, False, True, True]

    def test_an_answer_that_is_too_long_is_not_kept(self, smollm2: Tokenizer) -> None:
        memory = AnswerMemory(max_tokens=100)
        fresh = build_prompt(PLAIN, smollm2, [USER])
        resumption = Resumption(fresh.token_ids, [], b"", [])
        short, long = memory.begin("", fresh, resumption), memory.begin("", fresh, resumption)
        short.extend([1] * 10)
        long.extend([1] * 95)
        assert (len(memory), memory.tokens) == (1, 95)
        long.extend([1] * 10)
        assert (len(memory), memory.tokens) == (0, 0)
        long.extend([1] * 10)
        short.extend([1])
        assert (len(memory), memory.tokens) == (0, 0)

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=60),
        bounds=st.tuples(st.integers(1, 200), st.integers(1, 5)),
    )
    def test_bounds_hold(
        self, smollm2: Tokenizer, steps: list[tuple[int, int]], bounds: tuple[int, int]
    ) -> None:
        memory = AnswerMemory(*bounds)
        prompts = [
            completion_prompt(smollm2, QUESTION),
            build_prompt(PLAIN, smollm2, [USER]),
            chat(smollm2, "Red", template=PLAIN),
        ]
        live: list[Remembered] = []
        for which, count in steps:
            if which < 3 or not live:
                prompt = prompts[which % 3]
                resumption = resume(prompt, smollm2, memory, "", healing=True)
                live.append(memory.begin("", prompt, resumption))
            else:
                live[which % len(live)].extend([5] * count)
            assert memory.tokens <= bounds[0]
            assert len(memory) <= bounds[1]
            memory.check_integrity()
