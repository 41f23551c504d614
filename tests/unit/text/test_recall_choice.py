"""Which of many answers is recalled, and answers that were cut in the middle of a character."""

from __future__ import annotations

from os.path import commonprefix

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_recall import QUESTION, answered, check_exact, unusual
from test_resumption import PLAIN, USER, chat, spelling

from legato.answer import Answer
from legato.asking import completion_prompt
from legato.request import FinishReason, Output, Request, SamplingParams
from legato.text.continuation import build_prompt
from legato.text.recall import AnswerMemory
from legato.text.resuming import resume
from legato.text.vocabulary import Tokenizer


def test_an_answer_that_was_cut_inside_a_character_goes_on(smollm2: Tokenizer) -> None:
    """Its text comes back without the half, and the tokens of the half are the same again."""
    fresh = build_prompt(PLAIN, smollm2, [USER])
    ids = smollm2.encode("Sure! 🦄🦄 ok 𒀀 fine", add_special_tokens=False)
    halves = 0
    for cut in range(1, len(ids) + 1):
        memory = AnswerMemory()
        resumption = resume(fresh, smollm2, memory, "", healing=True)
        request = Request(
            id="x", prompt_token_ids=fresh.token_ids, params=SamplingParams(max_tokens=cut, seed=1)
        )
        answer = Answer(fresh, request, smollm2, [memory.begin("", fresh, resumption)])
        for id in ids[: cut - 1]:
            answer.push([Output(request_id="x", index=0, token_ids=[id])])
        answer.push(
            [
                Output(
                    request_id="x",
                    index=0,
                    token_ids=[ids[cut - 1]],
                    finish_reason=FinishReason.LENGTH,
                )
            ]
        )
        text = answer.choices[0].text
        halves += spelling(smollm2, ids[:cut]) != text.encode()
        prompt = chat(smollm2, text, template=PLAIN)
        found = resume(prompt, smollm2, memory, "", healing=True)
        check_exact(smollm2, found, fresh.token_ids, ids, text.encode())
    assert halves >= 4


def begun_alike() -> st.SearchStrategy[str]:
    """Texts that part from each other after some words."""
    begun = "a b  c ab ca bc"
    tails = st.text("abc ", max_size=3)
    return st.builds(lambda end, tail: begun[:end] + tail, st.integers(1, len(begun)), tails)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    answers=st.lists(begun_alike(), min_size=1, max_size=8),
    words=begun_alike(),
    is_chat=st.booleans(),
)
def test_of_many_answers_it_is_the_same_one(
    smollm2: Tokenizer, answers: list[str], words: str, is_chat: bool
) -> None:
    """Those that are passed over quickly: each asked alone says less, or the same earlier."""
    if is_chat:
        first = build_prompt(PLAIN, smollm2, [USER])
        prompt = chat(smollm2, words, template=PLAIN)
    else:
        first = completion_prompt(smollm2, QUESTION)
        prompt = completion_prompt(smollm2, QUESTION + words)
    together = AnswerMemory()
    for number, answer in enumerate(answers):
        spelled = unusual if number % 2 else Tokenizer.encode
        answered(together, smollm2, first, spelled(smollm2, answer))
    best, most = None, 0
    for number, answer in enumerate(answers):
        alone = AnswerMemory()
        spelled = unusual if number % 2 else Tokenizer.encode
        answered(alone, smollm2, first, spelled(smollm2, answer))
        common = len(commonprefix([answer, words]))
        if common and common >= most:
            best, most = alone, common
    expected = None if best is None else best.recall("", prompt, smollm2)
    assert together.recall("", prompt, smollm2) == expected
