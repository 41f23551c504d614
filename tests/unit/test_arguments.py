"""What callers of ``LLM`` may pass: vLLM's forms, and a RequestError that names the argument for all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from legato import RequestError, SamplingParams
from legato.arguments import conversations_of, params_of, prompts_of

TURN = {"role": "user", "content": "a"}
PARAMS = SamplingParams(max_tokens=1)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("a b", ["a b"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        ((text for text in "ab"), ["a", "b"]),
        ([], []),
        ([5, 4], [[5, 4]]),
        ((5, 4), [[5, 4]]),
        (np.array([5, 4]), [[5, 4]]),
        ([np.int64(5)], [[5]]),
        ([[5, 4], [3]], [[5, 4], [3]]),
        ([(5, 4)], [[5, 4]]),
        ([np.array([5, 4]), "a"], [[5, 4], "a"]),
        (np.array([[5, 4], [3, 2]]), [[5, 4], [3, 2]]),
        ({"prompt": "a"}, ["a"]),
        ({"prompt_token_ids": (5, 4)}, [[5, 4]]),
        ([{"prompt": "a"}, {"prompt_token_ids": [5]}], ["a", [5]]),
    ],
)
def test_forms_of_prompts(given: Any, prompts: list[str | list[int]]) -> None:
    read = prompts_of(given)
    assert read == prompts
    assert all(type(id) is int for prompt in read if isinstance(prompt, list) for id in prompt)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (None, "prompts"),
        (5, "prompts"),
        (b"abc", "prompts"),
        ([True], "prompts"),
        ([5, "a"], "prompts"),
        (["a", 5], r"prompts\[1\]"),
        ([[5], [0.5]], r"prompts\[1\]"),
        ({}, "prompts"),
        ({"text": "a"}, "prompts"),
        ({"prompt": "a", "multi_modal_data": {}}, "prompts"),
        ([{"prompt": None}], r"prompts\[0\]\.prompt"),
    ],
)
def test_what_is_no_prompt(given: Any, field: str) -> None:
    with pytest.raises(RequestError, match=f"^{field} must") as refused:
        prompts_of(given)
    assert refused.value.field and refused.value.field in str(refused.value)


def test_conversations() -> None:
    assert conversations_of([TURN, TURN]) == conversations_of((TURN, TURN)) == [[TURN, TURN]]
    assert conversations_of([[TURN], (TURN, TURN)]) == [[TURN], [TURN, TURN]]
    wrong: list[Any] = ["a", TURN, None, ["a"], [[TURN], TURN]]
    for given in wrong:
        with pytest.raises(RequestError) as refused:
            conversations_of(given)
        assert refused.value.field == "messages"


def test_params_for_each_prompt() -> None:
    default = SamplingParams()
    assert params_of(None, 2, default) == [default, default]
    assert params_of(PARAMS, 2, default) == params_of((PARAMS, PARAMS), 2, default) == [PARAMS] * 2
    wrong: list[Any] = [{"max_tokens": 1}, [None, None], [PARAMS], [], 5, "a"]
    for given in wrong:
        with pytest.raises(RequestError) as refused:
            params_of(given, 2, default)
        assert refused.value.field == "sampling_params"
