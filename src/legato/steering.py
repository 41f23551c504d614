"""What a caller of ``LLM`` may ask of an answer besides its sampling parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from legato.constraint.compiling import compile_grammar
from legato.constraint.tokens import TokenTable
from legato.errors import RequestError
from legato.request import Guidance
from legato.text import grammar as sources
from legato.text.continuation import Prompt
from legato.text.parting import given_content
from legato.text.predicted import prediction_ids
from legato.text.thinking import thinking_of
from legato.text.vocabulary import Tokenizer


def _json_object(wanted: Any, field: str) -> str:
    if wanted is not True:
        raise RequestError(
            f"{field} must be true: leave structured_outputs out for any text", field
        )
    return sources.json_object(field)


KINDS: dict[str, Callable[[Any, str], str]] = {
    "json": sources.json_schema,
    "json_object": _json_object,
    "regex": sources.regex,
    "choice": sources.choice,
    "grammar": sources.grammar,
}


@dataclass(frozen=True, kw_only=True)
class Steering:
    """``structured_outputs`` has one of the keys ``json`` (a schema), ``json_object``, ``regex``,
    ``choice`` and ``grammar``, as in the server's field of that name. ``prediction``: a text of which
    much will be in the answer, which comes sooner then and is the same."""

    structured_outputs: dict[str, Any] | None = None
    token_healing: bool = True
    max_thinking_tokens: int | None = None
    prediction: str = ""

    def guidance(
        self,
        prompt: Prompt,
        tokenizer: Tokenizer,
        table: Callable[[], TokenTable],
        context: int,
    ) -> Guidance:
        """For one prompt. ``context``: the model's, in tokens. Raises RequestError for a grammar that is
        none, for one that the prompt's beginning of the answer breaks, and for too long a prediction."""
        source = self._source()
        thinking = None
        if source or self.max_thinking_tokens is not None:
            thinking = thinking_of(prompt, self.max_thinking_tokens, tokenizer)
        if source:
            begun = given_content(prompt, tokenizer).encode() if prompt.prefill else b""
            compile_grammar(source, table(), "structured_outputs").feed(begun, "structured_outputs")
        # A raw prompt is no part of the text that a grammar describes.
        heals = self.token_healing and not (source and not prompt.prefill)
        return Guidance(
            token_healing=heals,
            thinking=thinking,
            grammar=source,
            grammar_field="structured_outputs",
            prediction_token_ids=prediction_ids(self.prediction, tokenizer, context),
        )

    def _source(self) -> str:
        wanted = self.structured_outputs
        if wanted is None:
            return ""
        if not isinstance(wanted, dict):
            raise RequestError("structured_outputs must be a dictionary", "structured_outputs")
        if len(wanted) != 1 or not wanted.keys() <= KINDS.keys():
            raise RequestError(
                f"structured_outputs must have one of the keys {', '.join(KINDS)}, "
                f"got {', '.join(map(str, wanted)) or 'none'}",
                "structured_outputs",
            )
        ((kind, value),) = wanted.items()
        return KINDS[kind](value, f"structured_outputs.{kind}")


NO_STEERING = Steering()
