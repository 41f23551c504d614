"""The names of ``--reasoning-parser``, and what they overrule."""

from __future__ import annotations

import pytest

from legato.config import REASONING_PARSERS, ServerConfig
from legato.errors import ConfigError
from legato.text.continuation import build_prompt
from legato.text.parting import parting_of
from legato.text.reasoning import HARMONY
from legato.text.reasoning_parsers import PARSERS
from legato.text.template import ChatTemplate
from legato.text.vocabulary import Tokenizer

PLAIN = ChatTemplate("{% for m in messages %}{{ m.content }}\n{% endfor %}A: ")
THINKS = ChatTemplate(PLAIN.sources["default"] + "{% if think %}<think></think>{% endif %}")


def test_the_settings_know_the_parsers() -> None:
    assert REASONING_PARSERS == ("auto", "none", *sorted(PARSERS))
    with pytest.raises(ConfigError, match="must be one of auto, none, cohere_command3.*, got 'r1'"):
        ServerConfig(reasoning_parser="r1")


@pytest.mark.parametrize(
    ("parser", "ends"),
    [
        ("auto", "hi\nA: <think>\nSo\n</think>\n\nIt"),
        ("mistral", "A: [THINK]So[/THINK]It"),
        ("granite", "A: Here is my thought process:\nSo\nHere is my response:\n\nIt"),
    ],
)
def test_given_thoughts_stand_between_the_named_marks(parser: str, ends: str) -> None:
    last = {"role": "assistant", "content": "It", "reasoning_content": "So"}
    asked = [{"role": "user", "content": "hi"}, last]
    assert build_prompt(PLAIN, None, asked, reasoning_parser=parser).text.endswith(ends)


@pytest.mark.parametrize(
    ("template", "parser", "opening"),
    [
        (PLAIN, "auto", None),
        (PLAIN, "qwen3", "<think>"),
        (PLAIN, "openai_gptoss", HARMONY.opening),
        (THINKS, "auto", "<think>"),
        (THINKS, "none", None),
        (THINKS, "seed_oss", "<seed:think>"),
        (THINKS, "mistral", "[THINK]"),
    ],
)
def test_a_name_overrules_the_template(
    template: ChatTemplate, parser: str, opening: str | None, smollm2: Tokenizer
) -> None:
    asked = [{"role": "user", "content": "hi"}]
    parting = parting_of(build_prompt(template, smollm2, asked, reasoning_parser=parser), smollm2)
    assert (parting.block.opening if parting else None) == opening
