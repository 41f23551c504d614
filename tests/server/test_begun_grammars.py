"""Answers that were begun, under a grammar or with thoughts: cut anywhere, they go on as they would have.

The real model; what it is compared with is its own uninterrupted answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_reasoning import OPENS

from legato import LLM, SamplingParams

ASKED: Any = [{"role": "user", "content": "Is Paris in France?"}]
CHOICE = {"choice": ["Yes", "No"]}
SCHEMA = {
    "json": {
        "type": "object",
        "required": ["first_name"],
        "properties": {"first_name": {"type": "string", "maxLength": 20}},
        "additionalProperties": False,
    }
}
BUDGET = 4


@pytest.fixture(scope="module")
def llm(model_path: Path) -> LLM:
    return LLM("smollm2", max_model_len=1024)


@pytest.fixture(scope="module")
def thinker(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    template = tmp_path_factory.mktemp("thinker") / "template.jinja"
    template.write_text(OPENS, encoding="utf-8")
    return LLM("smollm2", chat_template=str(template), max_model_len=1024)


def answer(llm: LLM, begun: dict[str, str] | None, tokens: int, **fields: Any) -> Any:
    messages = [*ASKED, {"role": "assistant", **begun}] if begun else ASKED
    params = SamplingParams(
        temperature=fields.pop("temperature", 0.0), seed=fields.pop("seed", 0), max_tokens=tokens
    )
    return llm.chat(messages, params, use_tqdm=False, **fields)[0].outputs[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_a_grammar_had_drawn_anew_is_so_again(llm: LLM, seed: int) -> None:
    """The model's own token was refused, so the next one is none that it drew freely."""
    how: dict[str, Any] = {"temperature": 1.0, "seed": seed, "structured_outputs": SCHEMA}
    whole = answer(llm, None, 9, **how).text
    for cut in range(1, len(whole)):
        rest = answer(llm, {"content": whole[:cut]}, 9, **how).text
        assert (whole[:cut] + rest).startswith(whole), whole[:cut]


@pytest.mark.parametrize(
    "begun",
    [
        {"content": "<think>\n\n</think>\n\nYe"},
        {"content": "<think>abc</think>Ye"},
        {"content": "<think>abc</think>\n"},
        {"content": "<think>abc</think>"},
        {"reasoning_content": "abc", "content": "Ye"},
    ],
)
def test_a_grammar_knows_the_content_only(thinker: LLM, begun: dict[str, str]) -> None:
    """What is spelled again stops at the mark, also where another answer with these thoughts is known."""
    answer(thinker, {"reasoning_content": "abc", "content": "Maybe "}, 6)
    given = begun["content"].rpartition("</think>")[2].strip()
    assert given + answer(thinker, begun, 6, structured_outputs=CHOICE).content in ("Yes", "No")


@pytest.mark.parametrize("outputs", [None, CHOICE])
def test_a_mark_of_several_tokens_may_be_cut(thinker: LLM, outputs: Any) -> None:
    how: dict[str, Any] = {"max_thinking_tokens": BUDGET, "structured_outputs": outputs}
    whole = answer(thinker, None, 16, **how)
    assert whole.reasoning and whole.content
    for count in range(1, len(whole.token_ids)):
        cut = answer(thinker, None, count, **how)
        begun = {"reasoning_content": cut.reasoning, "content": cut.content}
        rest = answer(thinker, begun, 16, **how)
        assert cut.reasoning + rest.reasoning == whole.reasoning, count
        assert (cut.content + rest.content).startswith(whole.content), count


@pytest.mark.parametrize("part", ["", "\n", "\n<", "\n</thi", "\n</think"])
@pytest.mark.parametrize("name", ["content", "reasoning_content"])
def test_a_mark_that_the_client_has_begun_is_one(thinker: LLM, part: str, name: str) -> None:
    opening = "<think>\n" if name == "content" else ""
    begun = {"content": "", name: f"{opening}Yes, it is.{part}"}
    said = answer(thinker, begun, 12, structured_outputs=CHOICE, max_thinking_tokens=40)
    assert said.content in ("Yes", "No") or "</think>" not in part + said.text, said
