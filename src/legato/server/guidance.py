"""What steers an answer besides its sampling parameters: healing, thoughts, a grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from legato.errors import RequestError
from legato.request import Guidance
from legato.text.predicted import prediction_ids
from legato.text.thinking import thinking_of, wish

if TYPE_CHECKING:
    from legato.server.service import Service
    from legato.server.structured import Wanted
    from legato.text.continuation import Prompt


class GuidanceFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The same in every protocol."""

    token_healing: bool = True
    max_thinking_tokens: int | None = None
    thinking_token_budget: int | None = None  # what vLLM calls it

    @property
    def wanted_thoughts(self) -> tuple[bool | str | None, str]:
        """Whether the model shall think, or how hard, as ``thinking.wish`` has it; and who says so."""
        return None, ""

    @property
    def wanted_prediction(self) -> str:
        """What much of the answer is expected to be. Raises RequestError."""
        return ""

    def wanted_grammar(self) -> Wanted | None:
        """What the content shall be; None: anything. Raises RequestError."""
        return None

    @property
    def budgets(self) -> dict[str, int | None]:
        """The same under all its names."""
        return {
            "max_thinking_tokens": self.max_thinking_tokens,
            "thinking_token_budget": self.thinking_token_budget,
        }

    @property
    def budget_field(self) -> str:
        """What the client called its budget."""
        given = (name for name, value in self.budgets.items() if value is not None)
        return next(given, "max_thinking_tokens")

    @property
    def thinking_budget(self) -> int | None:
        """None: no limit, which is also said by -1. Raises RequestError naming the field."""
        given = {name: value for name, value in self.budgets.items() if value is not None}
        for name, value in given.items():
            if value < -1:
                raise RequestError(f"{name} must be at least 0, or -1 for no limit", name)
        if len(set(given.values())) > 1:
            names = [*given]
            raise RequestError(f"{' and '.join(names)} mean the same, but differ", names[0])
        budget = next(iter(given.values()), None)
        return None if budget == -1 else budget


def guidance_of(fields: GuidanceFields, prompt: Prompt, service: Service, grammar: str) -> Guidance:
    """``grammar``: of ``structured.grammar_of``. Raises RequestError naming the field."""
    budget = fields.thinking_budget
    if prompt.template is not None and wish(prompt.template, *fields.wanted_thoughts).forbids:
        budget = 0
    thinking = None
    if budget is not None or grammar:
        thinking = thinking_of(prompt, budget, service.text, fields.budget_field)
    # A raw prompt is no part of the text that a grammar describes: its last word cannot be respelled.
    heals = fields.token_healing and not (grammar and not prompt.prefill)
    wanted = fields.wanted_grammar()
    return Guidance(
        token_healing=heals,
        thinking=thinking,
        grammar=grammar,
        grammar_field="grammar" if wanted is None else wanted.field,
        prediction_token_ids=prediction_ids(
            fields.wanted_prediction, service.text, service.engine.info.max_model_len
        ),
    )
