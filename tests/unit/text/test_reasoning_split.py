"""Thoughts and content of an answer, however it is cut into pieces."""

from __future__ import annotations

import random

import pytest
from split_pieces import split_up

from legato.text.continuation import Prompt
from legato.text.parting import state_at_seam
from legato.text.reasoning import BLOCKS
from legato.text.reasoning_split import ReasoningSplit, Where

THINK = BLOCKS[0]
ANSWERS: list[tuple[Where, str, str, str]] = [
    ("start", "<think>\nOkay, \n\nso.\n</think>\n\nIt is.", "Okay, \n\nso.", "It is."),
    ("start", "\n<think></think>It is.", "", "It is."),
    ("start", "<think>\n\nOkay</think>It is.", "\nOkay", "It is."),
    ("start", "It is <think>.", "", "It is <think>."),
    ("start", "<thin ice", "", "<thin ice"),
    ("start", " <", "", " <"),
    ("start", "<think>\nOkay\n", "Okay\n", ""),
    ("inside", " so </thin\n\n", " so </thin\n\n", ""),
    ("inside", "\nso.</think>\n\n It", "\nso.", " It"),
    ("closed", "\n\nIt </think>", "", "It </think>"),
    ("content", "\n<think>", "", "\n<think>"),
]


@pytest.mark.parametrize(("where", "answer", "reasoning", "content"), ANSWERS)
def test_any_pieces(where: Where, answer: str, reasoning: str, content: str) -> None:
    chance = random.Random(3)
    for _ in range(30):
        parts = split_up(ReasoningSplit(THINK, where), answer, chance, 6)
        assert parts == (reasoning, content)


def test_thoughts_that_the_prompt_opened_keep_their_newlines() -> None:
    split = ReasoningSplit(THINK, "inside")
    assert split.push("\n\nso") == ("\n\nso", "")


@pytest.mark.parametrize(
    ("header", "prefill", "field", "reasoning", "where"),
    [
        ("assistant\n", "", "content", "", "start"),
        ("assistant\n<think>\n", "", "content", "", "inside"),
        ("assistant\n<think>\n", "Okay", "reasoning_content", "", "inside"),
        ("assistant\n<think>\n", "Okay.\n</think>\n\nIt", "content", "", "content"),
        ("assistant\n<think>\n\n</think>\n\n", "It", "content", "", "content"),
        ("assistant\n", "<think>\nOkay", "content", "", "inside"),
        ("assistant\n", "<think>\nOkay\n</think>\n\nIt", "content", "", "content"),
        ("assistant\n<think>\nOkay\n</think>\n\n", "", "content", "Okay", "closed"),
        ("assistant\n", "It", "content", "", "content"),
    ],
)
def test_the_prompt_says_where_the_answer_goes_on(
    header: str, prefill: str, field: str, reasoning: str, where: Where
) -> None:
    prompt = Prompt(header + prefill, [], len(header), prefill, field, reasoning)  # type: ignore[arg-type]
    assert state_at_seam(prompt, THINK) == where


def test_tokens_between_the_marks_are_counted() -> None:
    split = ReasoningSplit(THINK, "start")
    for token in ("<", "think>", "\n", "Ok", "\n", "</ok", "\n", "</", "think", ">", "\n\n", "It"):
        split.push(token)
    assert split.reasoning_tokens == 4  # "\n", "Ok", "\n", "</ok"
    split = ReasoningSplit(THINK, "inside")
    split.push(" so", 3)
    split.push("\n</think>\n\nIt", 5)
    assert split.reasoning_tokens == 3


WRAPPED = THINK._replace(answer=("<answer>", "</answer>"))


@pytest.mark.parametrize(
    ("where", "answer", "parted"),
    [
        ("start", "<think>\nOkay\n</think>\n<answer>\nIt\n\nis.\n</answer>", ("Okay", "It\n\nis.")),
        ("inside", "Okay</think><answer>It</answer>\n", ("Okay", "It")),
        ("inside", "Okay</think>\n\nIt <answer>", ("Okay", "It <answer>")),
        ("content", " is.\n</answer>", ("", " is.")),
        ("content", "<ans", ("", "<ans")),
        ("start", "\n<answer>\n\nIt</ans", ("", "It</ans")),
    ],
)
def test_a_content_between_marks_of_its_own(
    where: Where, answer: str, parted: tuple[str, str]
) -> None:
    for size in (1, 2, 5, 100):
        split = ReasoningSplit(WRAPPED, where)
        parts = [split.push(answer[at : at + size]) for at in range(0, len(answer), size)]
        parts.append(split.finish())
        assert "".join(part.reasoning for part in parts) == parted[0]
        assert "".join(part.content for part in parts) == parted[1]
