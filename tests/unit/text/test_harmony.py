"""Answers on channels, however they are cut into pieces."""

from __future__ import annotations

import random

import pytest
from split_pieces import split_up

from legato.text.harmony import HarmonySplit
from legato.text.reasoning_split import Where

THINKS = "<|channel|>analysis<|message|>"
SAYS = "<|channel|>final<|message|>"
NEXT = "<|end|><|start|>assistant"
ANSWERS: list[tuple[Where, str, str, str]] = [
    ("start", f"{THINKS}Okay,\n{NEXT}{SAYS}\nIt is<|return|>", "Okay,\n", "\nIt is"),
    ("start", f"{SAYS}It is", "", "It is"),
    ("start", "It is", "", "It is"),
    ("start", f"{THINKS}Okay", "Okay", ""),
    ("start", f"{THINKS}a <| b", "a <| b", ""),
    ("start", f"{THINKS}One.{NEXT}{THINKS}Two.{NEXT}{SAYS}It", "One.\nTwo.", "It"),
    ("start", f"<|channel|>commentary<|message|>First{NEXT}{SAYS}It", "", "First\nIt"),
    ("inside", f", so.{NEXT}{SAYS}It", ", so.", "It"),
    ("content", " is<|return|>", "", " is"),
]


@pytest.mark.parametrize(("where", "answer", "reasoning", "content"), ANSWERS)
def test_any_pieces(where: Where, answer: str, reasoning: str, content: str) -> None:
    chance = random.Random(3)
    for _ in range(30):
        parts = split_up(HarmonySplit(where), answer, chance, 12)
        assert parts == (reasoning, content)


def test_tokens_of_the_analysis_are_counted() -> None:
    split = HarmonySplit("start")
    for token in ("<|channel|>", "analysis", "<|message|>", "Ok", "ay", "<|end|>", "<|start|>"):
        split.push(token)
    assert split.reasoning_tokens == 2
